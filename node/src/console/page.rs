//! The page itself: one app that every path leads to, and what it loads. Both were built into the program (`build.rs`).
//!
//! An asset's name holds a hash of its content, so browsers may keep it for ever, and the page, which names them, never.
//! Nothing is compressed: it travels within one machine.

use axum::extract::{Path, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::guard::Refusal;

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Names hold a hash, so what one of them stands for never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The app.
pub(super) async fn index() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], INDEX).into_response()
}

/// Any path that is no route: the app, which knows its own paths. What belongs to the API is not there.
pub(super) async fn other(request: Request) -> Result<Response, Refusal> {
    let path = request.uri().path();
    if path == "/api" || path.starts_with("/api/") || ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "missing", "there is nothing under this address").quiet());
    }
    Ok(index().await)
}

/// A script, a style or a picture of the app.
pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, Refusal> {
    let found = ASSETS.iter().find(|(asset, _)| *asset == name);
    let Some((_, bytes)) = found else {
        // A tab that was open while the program was replaced asks for what the old one had.
        return Err(
            Refusal::new(StatusCode::NOT_FOUND, "missing", "this version has no such file: reload the page").quiet()
        );
    };
    Ok(([(CONTENT_TYPE, kind(&name)), (CACHE_CONTROL, FOR_EVER)], *bytes).into_response())
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_has_a_kind_and_a_name_that_changes_with_it() {
        assert!(ASSETS.len() >= 3, "a script, a style, a picture");
        for (name, bytes) in ASSETS {
            assert_ne!(kind(name), "application/octet-stream", "{name}");
            assert!(!bytes.is_empty(), "{name}");
            let hash = name.rsplit_once('.').and_then(|(stem, _)| stem.rsplit_once('-')).map_or("", |(_, hash)| hash);
            assert!(hash.len() >= 8, "{name}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let texts = ASSETS.iter().map(|(name, bytes)| (*name, *bytes)).chain([("index.html", INDEX)]);
        for (name, bytes) in texts.filter(|(name, _)| !name.ends_with(".png")) {
            let text = String::from_utf8_lossy(bytes);
            for (at, _) in text.match_indices("http://").chain(text.match_indices("https://")) {
                let address: String = text[at..].chars().take(40).collect();
                let known = ["http://www.w3.org/", "https://svelte.dev/e/"];
                assert!(known.iter().any(|known| address.starts_with(known)), "{name}: {address}");
            }
        }
        let index = String::from_utf8_lossy(INDEX);
        assert!(index.contains("<script type=\"module\"") && !index.contains("<style"), "{index}");
    }
}
