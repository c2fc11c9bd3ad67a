//! The style sheet, the script and the icon: named by their content, so that browsers keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::conditional;
use crate::http::pages::PageError;
use crate::http::pages::notice::Notice;
use crate::secret;

/// The style sheet of every page.
pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let file = include_str!("../../../assets/style.css");
    Asset::new("style", "css", "text/css; charset=utf-8", file)
});

/// Keeps the list of messages fresh; the page works without it.
pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let file = include_str!("../../../assets/script.js");
    Asset::new("script", "js", "text/javascript; charset=utf-8", file)
});

/// The service's mark.
pub(crate) static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let file = include_str!("../../../assets/icon.svg");
    Asset::new("icon", "svg", "image/svg+xml", file)
});

/// A file that pages use.
pub(crate) struct Asset {
    /// Where it is.
    pub(crate) path: String,
    etag: String,
    media_type: &'static str,
    file: &'static str,
}

impl Asset {
    fn new(name: &str, extension: &str, media_type: &'static str, file: &'static str) -> Self {
        let digest = secret::hex(&secret::sha256(file.as_bytes()));
        let short: String = digest.chars().take(16).collect();
        Self {
            path: format!("/assets/{name}-{short}.{extension}"),
            etag: format!("\"{short}\""),
            media_type,
            file,
        }
    }
}

/// Serves a file that pages use.
pub(crate) async fn show(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let path = format!("/assets/{name}");
    let asset = [&*STYLE, &*SCRIPT, &*ICON]
        .into_iter()
        .find(|asset| asset.path == path)
        .ok_or(Notice::NotHere)?;
    let mut response = if conditional::if_none_match_hits(&headers, &asset.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let media_type = [(header::CONTENT_TYPE, asset.media_type)];
        (media_type, asset.file).into_response()
    };
    let headers = response.headers_mut();
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, forever);
    if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}
