//! Pieces of Python.

use cakes::Extent;

/// Longest line of generated code.
const LINE_CHARS_MAX: usize = 100;

/// A layer's name as an attribute: dots become underscores.
pub(super) fn identifier(name: &str) -> String {
    name.replace('.', "_")
}

/// The block that a layer belongs to: `stage1.0` of `stage1.0.conv1.norm`.
pub(super) fn block(name: &str) -> &str {
    let mut ends = name.match_indices('.').map(|(at, _)| at);
    let (first, second) = (ends.next(), ends.next());
    let Some(first) = first else { return name };
    let end = second.unwrap_or(name.len());
    let is_numbered = name[first + 1..end].bytes().all(|byte| byte.is_ascii_digit());
    if is_numbered { &name[..end] } else { &name[..first] }
}

/// One number for a cube, else a tuple.
pub(super) fn extent(size: Extent) -> String {
    let [d, h, w] = size;
    if d == h && h == w { d.to_string() } else { format!("({d}, {h}, {w})") }
}

/// A line as it stands in a docstring.
pub(super) fn in_docstring(line: &str) -> String {
    line.replace('\\', "\\\\").replace('"', "\\\"")
}

/// `name = function(arguments)`, on several lines if one would be too long.
pub(super) fn call(indent: usize, target: &str, function: &str, arguments: &[String]) -> String {
    let space = " ".repeat(indent);
    let line = format!("{space}{target} = {function}({})", arguments.join(", "));
    if line.len() <= LINE_CHARS_MAX {
        return line;
    }
    let inner = format!("{space}    {}", arguments.join(", "));
    if inner.len() <= LINE_CHARS_MAX {
        return format!("{space}{target} = {function}(\n{inner}\n{space})");
    }
    let lines: Vec<String> = arguments.iter().map(|argument| format!("{space}    {argument},")).collect();
    format!("{space}{target} = {function}(\n{}\n{space})", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_belong_to_the_block_that_they_are_named_after() {
        assert_eq!(block("stage1.0.conv1.spatial.norm"), "stage1.0");
        assert_eq!(block("encoder.2.add"), "encoder.2");
        assert_eq!(block("stem.norm"), "stem");
        assert_eq!(block("head"), "head");
        assert_eq!(block("block.11"), "block.11");
    }
}
