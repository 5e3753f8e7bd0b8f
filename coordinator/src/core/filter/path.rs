//! A filter in the path language of SQL/JSON (ISO/IEC 9075-2, as Postgres has it).

use super::parse::{Comparison, Place, Tree, Value};

/// The predicate that a row fulfils if the filter holds for it.
pub(super) fn write(tree: &Tree) -> String {
    match tree {
        Tree::All(parts) => joined(parts, " && "),
        Tree::Any(parts) => joined(parts, " || "),
        Tree::Not(part) => format!("!({})", write(part)),
        Tree::Compares { place, how, with } => {
            let sign = match how {
                Comparison::Equal => "==",
                Comparison::Less => "<",
                Comparison::LessOrEqual => "<=",
                Comparison::Greater => ">",
                Comparison::GreaterOrEqual => ">=",
            };
            format!("{} {sign} {}", path(place), literal(with))
        }
        Tree::BeginsWith { place, start } => format!("{} starts with {}", path(place), string(start)),
        Tree::IsThere { place } => format!("exists({})", path(place)),
    }
}

fn joined(parts: &[Tree], between: &str) -> String {
    let parts: Vec<String> = parts.iter().map(|part| format!("({})", write(part))).collect();
    parts.join(between)
}

fn path(place: &Place) -> String {
    let key = place.key.as_deref().map(|key| format!(".{}", string(key))).unwrap_or_default();
    format!("$.{}{key}", string(place.field))
}

fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => string(text),
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        // Exact, where a float would round.
        Value::Time(time) => {
            let micros = time.timestamp_micros();
            let sign = if micros < 0 { "-" } else { "" };
            let micros = micros.unsigned_abs();
            format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
        }
    }
}

/// Strings of paths are written like those of JSON.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
