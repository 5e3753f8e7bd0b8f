//! Pieces of generated text. Names of data sets, cases and classes may hold anything.

use serde::Serialize;

/// A list as JSON and Python write it.
pub(crate) fn list<T: Serialize>(values: &[T]) -> String {
    // Plain data in memory always serialises.
    let values: Vec<String> =
        values.iter().map(|value| serde_json::to_string(value).unwrap_or_default()).collect();
    format!("[{}]", values.join(", "))
}

/// `template` with values in the places of their names. In one pass: a value that holds the
/// name of another stays as it is.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let (mut filled, mut rest) = (String::new(), template);
    let next = |rest: &str| {
        let places = values.iter().filter_map(|(name, value)| Some((rest.find(name)?, *name, value)));
        places.min_by_key(|(at, ..)| *at)
    };
    while let Some((at, name, value)) = next(rest) {
        filled.push_str(&rest[..at]);
        filled.push_str(value);
        rest = &rest[at + name.len()..];
    }
    filled + rest
}

/// A name without line breaks and other control characters.
pub(crate) fn one_line(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).collect()
}

/// Rows of a table of Markdown: number and name of each class.
pub(crate) fn class_rows(classes: &[String]) -> String {
    let rows = classes.iter().enumerate().map(|(number, name)| {
        let name = one_line(name).replace('\\', "\\\\").replace('|', "\\|");
        format!("| {number} | {name} |")
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_is_filled_with_is_not_searched() {
        let values = [("{a}", "{b}{a}".to_owned()), ("{b}", "{a}".to_owned())];
        assert_eq!(fill("1 {b} 2 {a} 3 {b}", &values), "1 {a} 2 {b}{a} 3 {a}");
    }

    #[test]
    fn lists_keep_what_names_hold() {
        assert_eq!(list(&["a,", "b,\"c"]), r#"["a,", "b,\"c"]"#);
        assert_eq!(list(&[32, 48]), "[32, 48]");
    }

    #[test]
    fn a_class_is_one_row() {
        assert_eq!(class_rows(&["a|b\nc".into(), "\\".into()]), "| 0 | a\\|bc |\n| 1 | \\\\ |");
    }
}
