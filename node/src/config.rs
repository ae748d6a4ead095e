//! Settings: defaults, file, environment and flags, resolved to one checked [`Config`].
//!
//! `config/default.toml` is the manual page, the default values and the list of what exists, all at once: a key that is
//! not in it is an error that names the nearest one that is, and a value must be of the same kind as the default.
//! So a setting cannot be added without being explained.
//!
//! [`resolve`] is pure; [`load`] reads the file and the environment for it.

mod layer;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Value;

use layer::Layers;

/// The manual page.
pub const DEFAULT: &str = include_str!("config/default.toml");
/// The file's name inside the data folder.
pub const FILE: &str = "config.toml";
/// How many ports above a default one are tried.
const PORTS_FURTHER: u16 = 100;
/// Points in a session at most: what a track's 13 bits of point number can say.
const POINTS_MAX: i64 = 8191;

/// Checked settings. `config/default.toml` says what each means.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the roster must call this point, if given.
    pub name: Option<String>,
    /// The data folder.
    pub data: PathBuf,
    /// Finding and reaching other points.
    pub mesh: Mesh,
    /// Sound and picture on the wire.
    pub media: Media,
    /// What the room sends and shows.
    pub room: Room,
    /// The room's page.
    pub console: Console,
    /// Bounds of a session this point is central of.
    pub session: Session,
    /// What is kept for others.
    pub archive: Archive,
}

/// Finding and reaching other points.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// Address to listen on, for the media plane too.
    pub listen: IpAddr,
    /// TCP and UDP.
    pub port: Port,
    /// Points to call.
    pub peers: Vec<Address>,
    /// Whether to find and be found by multicast.
    pub mdns: bool,
}

/// Sound and picture on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    /// UDP.
    pub port: Port,
    /// First guess of what the line carries upwards, in kilobits a second.
    pub line_kbps: u32,
}

/// What the room sends and shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    /// Where picture and sound come from.
    pub source: Source,
    /// Whether to decode what others send.
    pub watch: bool,
}

/// Where a room's picture and sound come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the browser that shows the room's page, already encoded.
    Browser,
    /// From what this program opens and encodes itself.
    Own(codec::capture::Spec),
}

impl FromStr for Source {
    type Err = codec::capture::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "browser" { Ok(Self::Browser) } else { text.parse().map(Self::Own) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Browser => f.write_str("browser"),
            Self::Own(spec) => spec.fmt(f),
        }
    }
}

/// The room's page.
#[derive(Debug, Clone, PartialEq)]
pub struct Console {
    /// A loopback address.
    pub address: IpAddr,
    /// TCP.
    pub port: Port,
}

/// Bounds of a session this point is central of.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Points in it at most, central included.
    pub points_max: u16,
}

/// What is kept for others.
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// Room for sessions in which this point had no part, in gigabytes.
    pub offer_gb: u32,
    /// Free space below which no copies are taken of sessions in which this point had no part, in gigabytes.
    pub copies_free_gb: u32,
    /// The same as a part of the disk, in a hundred.
    pub copies_free_percent: u32,
    /// Free space below which nothing is copied, in megabytes.
    pub record_free_mb: u32,
    /// Size of the file that keeps room back, in megabytes.
    pub reserve_mb: u32,
}

impl Config {
    /// The folder of the archive.
    pub fn archive(&self) -> PathBuf {
        archive(&self.data)
    }
}

/// The folder of the archive in the data folder `data`.
pub fn archive(data: &Path) -> PathBuf {
    data.join("archive")
}

/// A port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// 0 lets the system choose.
    pub number: u16,
    /// Whether somebody asked for this one. If not, it gives way.
    pub fixed: bool,
}

impl Port {
    /// Any free port.
    pub const ANY: Self = Self { number: 0, fixed: true };

    /// The ports to try, in order.
    pub fn candidates(self) -> impl Iterator<Item = u16> {
        let further = if self.fixed { 0 } else { PORTS_FURTHER };
        self.number..=self.number.saturating_add(further)
    }
}

/// Where another point can be called: a host and its mesh port. The host may be a name, looked up at each call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(at: std::net::SocketAddr) -> Self {
        Self { host: at.ip().to_string(), port: at.port() }
    }
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT, such as 10.1.2.3:7400 or [2001:db8::1]:7400")]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let wrong = || NotAnAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bare {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
            // 253 is the longest DNS name.
            None => {
                (1..=253).contains(&host.len())
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            }
        };
        if !good {
            return Err(wrong());
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

/// Where a value came from, for the sentence that complains about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Environment,
    /// A flag of the command.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("the environment"),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

/// Why there are no settings to work with. All are the caller's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration file {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: {found}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser said.
        found: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key:?}; did you mean {nearest:?}?")]
    Unknown {
        /// Dotted path, or the variable's name.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The setting most like it.
        nearest: String,
    },
    /// The setting cannot have this value.
    #[error("{origin}: {key} = {found}, but it must be {want}")]
    Bad {
        /// Dotted path.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// As given.
        found: String,
        /// What would do.
        want: String,
    },
}

/// What was given beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// A file and its text.
    pub file: Option<(PathBuf, String)>,
    /// Variables of the environment; those that are not ours are passed over.
    pub environment: Vec<(String, String)>,
    /// Dotted path and value.
    pub flags: Vec<(&'static str, Value)>,
    /// The home folder, for `~`.
    pub home: Option<PathBuf>,
}

/// Reads what there is and resolves it.
///
/// `file` is what `--config` names and must exist. Without it, `config.toml` in the data folder is read if there is one.
pub fn load(file: Option<&Path>, data: Option<&Path>, mut flags: Vec<(&'static str, Value)>) -> Result<Config, Error> {
    if let Some(data) = data {
        flags.push(("data", Value::String(data.to_string_lossy().into_owned())));
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut given = Given { file: None, environment, flags, home: std::env::home_dir() };
    let path = match file {
        Some(path) => path.to_owned(),
        None => resolve(&given)?.data.join(FILE),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => given.file = Some((path, text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {}
        Err(source) => return Err(Error::Unreadable { path, source }),
    }
    let mut config = resolve(&given)?;
    if file.is_none()
        && let Some((path, _)) = &given.file
    {
        // The file was found through its folder, so the folder is the data folder whatever the file says.
        config.data = path.parent().unwrap_or(Path::new(".")).to_owned();
    }
    Ok(config)
}

/// One checked configuration from everything that was given.
pub fn resolve(given: &Given) -> Result<Config, Error> {
    let layers = Layers::new(given)?;
    let mesh = Mesh {
        listen: layers.parse("mesh.listen", "an IP address of this machine, such as 0.0.0.0")?,
        port: layers.port("mesh.port")?,
        peers: layers.addresses("mesh.peers")?,
        mdns: layers.flag("mesh.mdns"),
    };
    let console =
        Console { address: layers.parse("console.address", "an IP address")?, port: layers.port("console.port")? };
    if !console.address.is_loopback() {
        return Err(layers.bad("console.address", "an address of this machine itself, such as 127.0.0.1 or ::1"));
    }
    let name = layers.text("name").trim().to_owned();
    Ok(Config {
        name: (!name.is_empty()).then_some(name),
        data: layers.path("data", given.home.as_deref())?,
        mesh,
        media: Media {
            port: layers.port("media.port")?,
            // Below 64 kb/s not even sound gets through; above 10 Gb/s it is a typing error.
            line_kbps: layers.number("media.line_kbps", 64, 10_000_000)? as u32,
        },
        room: Room {
            source: layers.parse("room.source", "\"browser\", \"pattern\" or \"file:PATH\"")?,
            watch: layers.flag("room.watch"),
        },
        console,
        archive: Archive {
            offer_gb: layers.number("archive.offer_gb", 0, 1_000_000)? as u32,
            copies_free_gb: layers.number("archive.copies_free_gb", 0, 1_000_000)? as u32,
            copies_free_percent: layers.number("archive.copies_free_percent", 0, 100)? as u32,
            record_free_mb: layers.number("archive.record_free_mb", 0, 1_000_000)? as u32,
            reserve_mb: layers.number("archive.reserve_mb", 0, 1_000_000)? as u32,
        },
        session: Session { points_max: layers.number("session.points_max", 2, POINTS_MAX)? as u16 },
    })
}

/// The manual page with every setting commented out, for a new data folder.
pub fn template() -> String {
    let mut text = String::with_capacity(DEFAULT.len() + 64);
    for line in DEFAULT.lines() {
        let setting = !line.is_empty() && !line.starts_with(['#', '[']);
        text.push_str(if setting { "# " } else { "" });
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The manual page as [`template`] gives it, with these points to call.
pub fn template_calling(peers: &[Address]) -> String {
    let peers: Vec<Value> = peers.iter().map(|peer| Value::String(peer.to_string())).collect();
    template().replacen("# peers = []\n", &format!("peers = {}\n", Value::Array(peers)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Given {
        Given {
            file: Some(("/etc/diemcau/office.toml".into(), text.to_owned())),
            home: Some("/home/lan".into()),
            ..Given::default()
        }
    }

    fn complaint(given: &Given) -> String {
        resolve(given).unwrap_err().to_string()
    }

    #[test]
    fn the_manual_page_is_a_valid_configuration() {
        let config = resolve(&Given { home: Some("/home/lan".into()), ..Given::default() }).unwrap();
        assert_eq!(config.data, Path::new("/home/lan/.local/share/diemcau"));
        assert_eq!(config.name, None);
        assert_eq!(config.mesh.port, Port { number: 7400, fixed: false });
        assert_eq!(config.media.port, Port { number: 7500, fixed: false });
        assert_eq!((config.session.points_max, config.archive.offer_gb), (40, 100));
        assert!(config.mesh.mdns && config.room.watch);
    }

    #[test]
    fn a_new_folders_file_changes_nothing() {
        let given = file(&template());
        assert_eq!(resolve(&given).unwrap(), resolve(&Given { file: None, ..given }).unwrap());
        assert!(template().contains("# port = 7400"));
    }

    #[test]
    fn a_joined_folders_file_has_whom_to_call() {
        let peers: Vec<Address> = ["10.0.0.1:7400", "[2001:db8::5]:7401"].map(|text| text.parse().unwrap()).into();
        let config = resolve(&file(&template_calling(&peers))).unwrap();
        assert_eq!(
            config,
            Config { mesh: Mesh { peers, ..config.mesh.clone() }, ..resolve(&file(&template())).unwrap() }
        );
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let mut given = file("[mesh]\nport = 1\nmdns = false\n[media]\nport = 11\n[console]\nport = 12");
        given.environment = vec![
            ("DIEMCAU_MESH_PORT".into(), "2".into()),
            ("DIEMCAU_MEDIA_PORT".into(), "22".into()),
            ("DIEMCAU_MESH_PEERS".into(), "10.0.0.1:7400, hue.example.vn:7401".into()),
            ("DIEMCAU_PASSPHRASE".into(), "not a setting".into()),
            ("PATH".into(), "/bin".into()),
        ];
        given.flags = vec![("mesh.port", Value::Integer(3))];
        let config = resolve(&given).unwrap();
        let fixed = |number| Port { number, fixed: true };
        assert_eq!((config.mesh.port, config.media.port, config.console.port), (fixed(3), fixed(22), fixed(12)));
        assert!(!config.mesh.mdns);
        let peers: Vec<_> = config.mesh.peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["10.0.0.1:7400", "hue.example.vn:7401"]);
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_what_would_do() {
        let check = |text: &str, want: &str| {
            assert_eq!(complaint(&file(text)), format!("/etc/diemcau/office.toml{want}"));
        };
        check("[mesh]\nprot = 7400", ": there is no setting \"mesh.prot\"; did you mean \"mesh.port\"?");
        check("[consol]\nport = 7400", ": there is no setting \"consol.port\"; did you mean \"console.port\"?");
        check("port = 7400", ": there is no setting \"port\"; did you mean \"console.port\"?");
        check("mesh = 1", ": mesh = 1, but it must be a table [mesh]");
        check("[mesh]\nport = \"7400\"", ": mesh.port = \"7400\", but it must be a whole number");
        check("[mesh]\nport = 74000", ": mesh.port = 74000, but it must be a whole number from 0 to 65535");
        check("[mesh]\npeers = [1]", ": mesh.peers = [1], but it must be a list of texts");
        check(
            "[mesh]\npeers = [\"hue\"]",
            ": mesh.peers = [\"hue\"], but it must be a list of HOST:PORT, such as 10.1.2.3:7400 or [2001:db8::1]:7400",
        );
        check(
            "[console]\naddress = \"0.0.0.0\"",
            ": console.address = \"0.0.0.0\", but it must be an address of this machine itself, such as 127.0.0.1 or ::1",
        );
        check("[session]\npoints_max = 1", ": session.points_max = 1, but it must be a whole number from 2 to 8191");
        check(
            "[room]\nsource = \"camera\"",
            ": room.source = \"camera\", but it must be \"browser\", \"pattern\" or \"file:PATH\"",
        );
        check("[room]\n\nsource = pattern", ", line 3: string values must be quoted, expected literal string");
    }

    #[test]
    fn a_misspelt_variable_of_ours_is_an_error_too() {
        let environment = vec![("DIEMCAU_MESH_PROT".to_owned(), "1".to_owned())];
        assert_eq!(
            complaint(&Given { environment, ..Given::default() }),
            "the environment: there is no setting \"DIEMCAU_MESH_PROT\"; did you mean \"DIEMCAU_MESH_PORT\"?"
        );
        let environment = vec![("DIEMCAU_MESH_MDNS".to_owned(), "maybe".to_owned())];
        assert_eq!(
            complaint(&Given { environment, ..Given::default() }),
            "the environment: mesh.mdns = \"maybe\", but it must be true or false"
        );
    }

    #[test]
    fn paths_start_where_a_reader_expects() {
        let data = |given: &Given| resolve(given).unwrap().data;
        assert_eq!(data(&file("data = \"point-1\"")), Path::new("/etc/diemcau/point-1"));
        assert_eq!(data(&file("data = \"/srv/d\"")), Path::new("/srv/d"));
        assert_eq!(data(&file("data = \"~/d\"")), Path::new("/home/lan/d"));
        let flags = vec![("data", Value::String("here".into()))];
        assert_eq!(data(&Given { flags, ..file("") }), Path::new("here"));
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["10.1.2.3:7400", "[2001:db8::1]:7400", "tru-so.hue.gov.vn:1"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in
            ["", "hue", "hue:", "hue:0", ":7400", "2001:db8::1:7400", "[hue]:1", "a b:1", "hue:70000", "/ip4/1.2.3.4"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_default_port_gives_way() {
        assert_eq!(Port { number: 7400, fixed: true }.candidates().collect::<Vec<_>>(), [7400]);
        assert_eq!(Port { number: 7400, fixed: false }.candidates().count(), 101);
        assert_eq!(Port { number: 65535, fixed: false }.candidates().collect::<Vec<_>>(), [65535]);
    }
}
