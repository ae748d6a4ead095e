//! Settings laid over one another. The defaults say which keys there are and of what kind each value is; every other
//! layer is checked against them, so what lies on top is always of the right kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::{Address, DEFAULT, Error, Given, Origin, Port};

const PREFIX: &str = "DIEMCAU_";

/// The value on top for each dotted path, and where it came from.
pub(super) struct Layers(BTreeMap<String, (Value, Origin)>);

impl Layers {
    pub(super) fn new(given: &Given) -> Result<Self, Error> {
        let defaults: Table = DEFAULT.parse().expect("the manual page is TOML");
        let mut layers = Self(BTreeMap::new());
        flatten("", defaults, &mut |key, value| {
            layers.0.insert(key, (value, Origin::Default));
            Ok(())
        })?;
        if let Some((path, text)) = &given.file {
            let origin = Origin::File(path.clone());
            flatten("", parse(path, text)?, &mut |key, value| layers.lay(key, value, &origin))?;
        }
        for (name, text) in &given.environment {
            layers.lay_variable(name, text)?;
        }
        for (key, value) in &given.flags {
            layers.lay((*key).to_owned(), value.clone(), &Origin::Flag)?;
        }
        Ok(layers)
    }

    fn lay(&mut self, key: String, value: Value, origin: &Origin) -> Result<(), Error> {
        if !self.0.contains_key(&key) {
            let bad = |want| Error::Bad { key: key.clone(), origin: origin.clone(), found: value.to_string(), want };
            if self.0.keys().any(|known| known.starts_with(&format!("{key}."))) {
                return Err(bad(format!("a table [{key}]")));
            }
            let nearest = nearest(&key, self.0.keys().cloned());
            return Err(Error::Unknown { key, origin: origin.clone(), nearest });
        }
        let on_top = self.0.get_mut(&key).expect("just looked");
        if let Some(want) = unlike(&on_top.0, &value) {
            return Err(Error::Bad { key, origin: origin.clone(), found: value.to_string(), want: want.to_owned() });
        }
        *on_top = (value, origin.clone());
        Ok(())
    }

    /// `DIEMCAU_MESH_PORT` is `mesh.port`. A variable that begins like one of our sections and names nothing is a
    /// mistake; other `DIEMCAU_` variables belong to commands.
    fn lay_variable(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(()) };
        let Some(key) = self.0.keys().find(|key| variable(key) == name).cloned() else {
            let section = rest.split('_').next().unwrap_or_default().to_lowercase();
            if !self.0.keys().any(|key| key.split_once('.').is_some_and(|(known, _)| known == section)) {
                return Ok(());
            }
            let nearest = nearest(name, self.0.keys().map(|key| variable(key)));
            return Err(Error::Unknown { key: name.to_owned(), origin: Origin::Environment, nearest });
        };
        let value = match &self.0[&key].0 {
            Value::Boolean(_) => text.parse().map(Value::Boolean).ok(),
            Value::Integer(_) => text.parse().map(Value::Integer).ok(),
            Value::Array(_) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Some(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
            }
            _ => Some(Value::String(text.to_owned())),
        };
        // A text where a number belongs is laid as a text, so that it is refused like one in a file.
        self.lay(key, value.unwrap_or_else(|| Value::String(text.to_owned())), &Origin::Environment)
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.0[key].0.as_str().expect("the default is a text and so is what lies on it")
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.0[key].0.as_bool().expect("the default is a truth value and so is what lies on it")
    }

    pub(super) fn number(&self, key: &str, min: i64, max: i64) -> Result<i64, Error> {
        let number = self.0[key].0.as_integer().expect("the default is a number and so is what lies on it");
        if !(min..=max).contains(&number) {
            return Err(self.bad(key, &format!("a whole number from {min} to {max}")));
        }
        Ok(number)
    }

    pub(super) fn port(&self, key: &str) -> Result<Port, Error> {
        let number = self.number(key, 0, i64::from(u16::MAX))? as u16;
        Ok(Port { number, fixed: self.0[key].1 != Origin::Default })
    }

    pub(super) fn parse<T: FromStr>(&self, key: &str, want: &str) -> Result<T, Error> {
        self.text(key).parse().map_err(|_| self.bad(key, want))
    }

    pub(super) fn addresses(&self, key: &str) -> Result<Vec<Address>, Error> {
        let list = self.0[key].0.as_array().expect("the default is a list and so is what lies on it");
        list.iter()
            .map(|one| one.as_str().and_then(|text| text.parse().ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| self.bad(key, "a list of HOST:PORT, such as 10.1.2.3:7400 or [2001:db8::1]:7400"))
    }

    pub(super) fn path(&self, key: &str, home: Option<&Path>) -> Result<PathBuf, Error> {
        let text = self.text(key);
        if text.is_empty() {
            return Err(self.bad(key, "the path of a folder"));
        }
        if let Some(rest) = text.strip_prefix("~/") {
            let home = home.ok_or_else(|| self.bad(key, "a path without ~, as there is no home folder here"))?;
            return Ok(home.join(rest));
        }
        Ok(match &self.0[key].1 {
            Origin::File(file) => file.parent().unwrap_or(Path::new(".")).join(text),
            Origin::Default | Origin::Environment | Origin::Flag => PathBuf::from(text),
        })
    }

    pub(super) fn bad(&self, key: &str, want: &str) -> Error {
        let (value, origin) = &self.0[key];
        Error::Bad { key: key.to_owned(), origin: origin.clone(), found: value.to_string(), want: want.to_owned() }
    }
}

fn parse(path: &Path, text: &str) -> Result<Table, Error> {
    text.parse().map_err(|error: toml::de::Error| Error::Syntax {
        path: path.to_owned(),
        line: 1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count(),
        found: error.message().to_owned(),
    })
}

fn flatten(prefix: &str, table: Table, each: &mut impl FnMut(String, Value) -> Result<(), Error>) -> Result<(), Error> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, each)?,
            value => each(key, value)?,
        }
    }
    Ok(())
}

/// What a value must be to stand in for the default, when it is not that.
fn unlike(default: &Value, value: &Value) -> Option<&'static str> {
    match (default, value) {
        (Value::String(_), Value::String(_))
        | (Value::Integer(_), Value::Integer(_))
        | (Value::Boolean(_), Value::Boolean(_)) => None,
        (Value::Array(_), Value::Array(list)) if list.iter().all(Value::is_str) => None,
        (Value::Array(_), _) => Some("a list of texts"),
        (Value::Integer(_), _) => Some("a whole number"),
        (Value::Boolean(_), _) => Some("true or false"),
        (Value::String(_), _) => Some("a text in quotes"),
        (Value::Float(_) | Value::Datetime(_) | Value::Table(_), _) => Some("of a kind no setting has"),
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "_"))
}

/// The known key with the fewest letters to change; of equals, one that ends in what was written.
fn nearest(key: &str, known: impl Iterator<Item = String>) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .min_by_key(|candidate| {
            let same_ending = last(candidate) == last(key);
            (if same_ending && !key.contains('.') { 0 } else { distance(key, candidate) }, !same_ending)
        })
        .expect("there are settings")
}

/// Letters to insert, delete or replace (Levenshtein). Keys longer than any of ours are cut: they are near to nothing.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, letter) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..a.len() {
            let replaced = diagonal + usize::from(a[j] != letter);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters_to_change() {
        for (a, b, want) in [("", "", 0), ("port", "port", 0), ("prot", "port", 2), ("", "abc", 3), ("điểm", "diem", 2)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
