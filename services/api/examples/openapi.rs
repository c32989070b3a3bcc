//! Prints the OpenAPI description: `cargo run -p tidings-api --example openapi > services/api/openapi.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().lock().write_all(tidings_api::openapi_json().as_bytes())
}
