//! What the room may ask without an account, in the form other programs read (OpenAPI 3.1), made from the code that answers.
//!
//! A copy is kept in `node/web/openapi.json`, from which the page's types are made; a test says when it is stale.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

/// Why a request was not carried out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Refused {
    /// A word for programs.
    error: String,
    /// A sentence for people.
    reason: String,
    /// Whole seconds after which it may be tried again.
    after: Option<u64>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Điểm Cầu", description = "The room's page and its node, on one machine."),
    paths(
        super::room::state,
        super::room::live,
        super::room::publish,
        super::room::withdraw,
        super::room::watch,
        super::room::layer,
        super::room::leave,
    ),
    components(schemas(Refused))
)]
struct Document;

/// The document, ready to read.
pub(super) fn text() -> String {
    let mut document = Document::openapi();
    // The program's version would make the committed copy stale with each release.
    document.info.version = "1".to_owned();
    document.info.license = None;
    let mut text = document.to_pretty_json().expect("a document of texts");
    text.push('\n');
    text
}

/// The document, for whoever asks.
pub(super) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], text())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Writes the copy anew when `DIEMCAU_OPENAPI=write` is set.
    #[test]
    fn the_committed_copy_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/openapi.json");
        let fresh = super::text();
        if std::env::var("DIEMCAU_OPENAPI").is_ok_and(|wish| wish == "write") {
            std::fs::write(&path, &fresh).expect("a folder for the page");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == fresh,
            "node/web/openapi.json is stale: DIEMCAU_OPENAPI=write cargo test -p node --lib openapi writes it anew"
        );
    }
}
