//! Configurations in the text format of the paper's authors.
//!
//! Their file of configurations is Python of a narrow kind, and their search writes
//! one configuration as a list alone:
//!
//! ```text
//! conv_configs['CAKES12D_C'] = [{'1xkxk': 34, 'kx1x1': 30}, {'1xkxk': 44, 'kx1x1': 20}, ...]
//! [{'kxkxk': tensor(28, device='cuda:0'), 'kx1x1': 1, '1xkxk': 35}, ...]
//! ```
//!
//! One `{...}` per searchable layer. Kernels may come in any order, because counts
//! are bound to names and not to positions; counts may be bare or wrapped.

use std::fmt;

use crate::allocation::ChannelAllocation;
use crate::architecture::{Architecture, ArchitectureError, LayerAllocation};
use crate::backbone::Backbone;
use crate::kernel::Kernel;

/// One configuration: an allocation for each searchable layer of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedConfiguration {
    /// Empty for a list that stands alone.
    pub name: String,
    /// In the order in which the layers run.
    pub layers: Vec<PublishedLayer>,
}

/// The allocation of one layer, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedLayer {
    /// Line of the file, from 1.
    pub line: usize,
    pub channels: ChannelAllocation,
}

/// Why a text holds no such configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishedError {
    #[error("line {line}: expected {expected}, found {found}")]
    Syntax { line: usize, expected: &'static str, found: String },
    #[error("line {line}, {layer}: {problem}")]
    Layer { line: usize, layer: String, problem: String },
    #[error("line {line}: configuration '{name}' is given twice; remove one")]
    RepeatedName { line: usize, name: String },
    #[error("holds no configuration; write NAME['...'] = [{{'kxkxk': 32, '1xkxk': 32}}, ...]")]
    Empty,
    #[error("there is no configuration '{name}'; the file has {known}")]
    UnknownName { name: String, known: String },
    #[error("holds several configurations; give the name of one: {known}")]
    NoName { known: String },
    #[error(
        "configuration '{name}' has {given} layers, the network has {expected} searchable ones: {layers}"
    )]
    LayerCount { name: String, given: usize, expected: usize, layers: String },
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
}

/// The authors' name of a kernel, as in `'1xkxk'`.
pub fn kernel_name(kernel: Kernel) -> String {
    kernel.to_string().replace('3', "k")
}

/// Reads every configuration of a text.
///
/// # Errors
/// The text is not of this format, or a layer is wrong; by line.
pub fn parse(text: &str) -> Result<Vec<PublishedConfiguration>, PublishedError> {
    let mut reader = Reader { tokens: tokens(text)?, position: 0, last_line: text.lines().count().max(1) };
    let mut found: Vec<PublishedConfiguration> = Vec::new();
    while let Some(token) = reader.peek() {
        let line = token.line;
        let name = match &token.kind {
            Kind::Word(_) => reader.assignment()?,
            _ => Some(String::new()),
        };
        // `conv_configs = {}` only says that a dictionary follows.
        let Some(name) = name else { continue };
        if found.iter().any(|other| other.name == name) {
            return Err(PublishedError::RepeatedName { line, name });
        }
        let layers = reader.layers()?;
        found.push(PublishedConfiguration { name, layers });
    }
    if found.is_empty() { Err(PublishedError::Empty) } else { Ok(found) }
}

/// The configuration of a name; no name finds the only one.
///
/// # Errors
/// None has this name, or there are several and no name; the error lists them.
pub fn find<'a>(
    configurations: &'a [PublishedConfiguration],
    name: Option<&str>,
) -> Result<&'a PublishedConfiguration, PublishedError> {
    let found = match (name, configurations) {
        (None, [only]) => Some(only),
        (name, all) => all.iter().find(|configuration| Some(configuration.name.as_str()) == name),
    };
    found.ok_or_else(|| {
        let names = configurations.iter().map(|configuration| match configuration.name.as_str() {
            "" => "one without a name",
            name => name,
        });
        let known = names.collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => PublishedError::UnknownName { name: name.to_owned(), known },
            None => PublishedError::NoName { known },
        }
    })
}

impl PublishedConfiguration {
    /// The architecture of `backbone` with these allocations.
    ///
    /// # Errors
    /// Too few or too many layers, or one that does not sum to the width of the
    /// backbone's.
    pub fn architecture(&self, backbone: &Backbone) -> Result<Architecture, PublishedError> {
        let known = backbone.searchable_layers();
        if known.len() != self.layers.len() {
            let names: Vec<&str> = known.iter().map(|layer| layer.name.as_str()).collect();
            return Err(PublishedError::LayerCount {
                name: self.name.clone(),
                given: self.layers.len(),
                expected: known.len(),
                layers: names.join(", "),
            });
        }
        let mut layers = Vec::with_capacity(known.len());
        for (index, (layer, given)) in known.into_iter().zip(&self.layers).enumerate() {
            let (sum, channels) = (given.channels.width(), given.channels.clone());
            if sum != layer.channels {
                return Err(PublishedError::Layer {
                    line: given.line,
                    layer: format!("layer {index} of '{}' ({})", self.name, layer.name),
                    problem: format!(
                        "{channels} sums to {sum}, but the layer has {} channels",
                        layer.channels
                    ),
                });
            }
            layers.push(LayerAllocation { layer: layer.name, channels });
        }
        Ok(Architecture::new(backbone.clone(), layers)?)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Word(String),
    Quoted(String),
    Number(String),
    Sign(char),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(text) | Kind::Number(text) => write!(f, "'{text}'"),
            Kind::Quoted(text) => write!(f, "\"{text}\""),
            Kind::Sign(sign) => write!(f, "'{sign}'"),
        }
    }
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    line: usize,
}

/// Words, numbers, quoted texts and signs; comments and white space are dropped.
fn tokens(text: &str) -> Result<Vec<Token>, PublishedError> {
    let mut found = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let mut rest = content.trim_start();
        while let Some(first) = rest.chars().next().filter(|first| *first != '#') {
            let (kind, length) = match first {
                '\'' | '"' => {
                    let inner = rest[1..].split(first).next().unwrap_or_default();
                    if inner.len() + 2 > rest.len() {
                        let found = rest.to_owned();
                        return Err(PublishedError::Syntax { line, expected: "a closing quote", found });
                    }
                    (Kind::Quoted(inner.to_owned()), inner.len() + 2)
                }
                _ if is_word(first) => {
                    let length = rest.find(|next| !is_word(next)).unwrap_or(rest.len());
                    let word = rest[..length].to_owned();
                    (if first.is_ascii_digit() { Kind::Number(word) } else { Kind::Word(word) }, length)
                }
                sign => (Kind::Sign(sign), sign.len_utf8()),
            };
            found.push(Token { kind, line });
            rest = rest[length..].trim_start();
        }
    }
    Ok(found)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.')
}

struct Reader {
    tokens: Vec<Token>,
    position: usize,
    last_line: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.position)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.position += 1;
        token
    }

    fn line(&self) -> usize {
        self.peek().map_or(self.last_line, |token| token.line)
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, PublishedError> {
        let found = self.peek().map_or("the end of the file".to_owned(), |token| token.kind.to_string());
        Err(PublishedError::Syntax { line: self.line(), expected, found })
    }

    fn takes(&mut self, sign: char) -> bool {
        let is_next = self.peek().is_some_and(|token| token.kind == Kind::Sign(sign));
        self.position += usize::from(is_next);
        is_next
    }

    fn sign(&mut self, sign: char, expected: &'static str) -> Result<(), PublishedError> {
        if self.takes(sign) { Ok(()) } else { self.expected(expected) }
    }

    /// `dictionary['NAME'] =`, or `NAME =`; none for `dictionary = {}`.
    fn assignment(&mut self) -> Result<Option<String>, PublishedError> {
        let Some(Token { kind: Kind::Word(word), .. }) = self.next() else {
            return self.expected("a name");
        };
        let mut name = word;
        if self.takes('[') {
            let Some(Kind::Quoted(quoted)) = self.peek().map(|token| token.kind.clone()) else {
                return self.expected("a quoted name, as in configs['CAKES12D_C']");
            };
            self.position += 1;
            name = quoted;
            self.sign(']', "']' behind the name")?;
        }
        self.sign('=', "'=' and a list of layers")?;
        if self.takes('{') {
            self.sign('}', "'}': a dictionary must be empty, its entries follow one by one")?;
            return Ok(None);
        }
        Ok(Some(name))
    }

    /// `[{...}, {...}]`.
    fn layers(&mut self) -> Result<Vec<PublishedLayer>, PublishedError> {
        self.sign('[', "'[' and the layers")?;
        let mut layers = Vec::new();
        while !self.takes(']') {
            let line = self.line();
            self.sign('{', "'{' and the counts of a layer, or ']'")?;
            let channels = self.counts(line, layers.len())?;
            layers.push(PublishedLayer { line, channels });
            if !self.takes(',') {
                self.sign(']', "',' or ']' behind a layer")?;
                break;
            }
        }
        Ok(layers)
    }

    /// `'kxkxk': 28, ...}`, behind the brace.
    fn counts(&mut self, line: usize, layer: usize) -> Result<ChannelAllocation, PublishedError> {
        let wrong = |line: usize, problem: String| PublishedError::Layer {
            line,
            layer: format!("layer {layer}"),
            problem,
        };
        let mut counts: Vec<(Kernel, u32)> = Vec::new();
        while !self.takes('}') {
            let Some(Kind::Quoted(name)) = self.peek().map(|token| token.kind.clone()) else {
                return self.expected("the quoted name of a kernel, as in '1xkxk'");
            };
            let at = self.line();
            let Some(kernel) = Kernel::ALL.into_iter().find(|kernel| kernel_name(*kernel) == name) else {
                let known = Kernel::ALL.map(kernel_name).join(", ");
                return Err(wrong(at, format!("'{name}' is no kernel; known are {known}")));
            };
            if counts.iter().any(|(other, _)| *other == kernel) {
                return Err(wrong(at, format!("'{name}' is given twice")));
            }
            self.position += 1;
            self.sign(':', "':' and a count")?;
            counts.push((kernel, self.count()?));
            if !self.takes(',') {
                self.sign('}', "',' or '}' behind a count")?;
                break;
            }
        }
        ChannelAllocation::from_counts(counts).map_err(|error| wrong(line, error.to_string()))
    }

    /// `28`, `tensor(28)` or `tensor(28, device='cuda:0')`.
    fn count(&mut self) -> Result<u32, PublishedError> {
        let is_wrapped = self.peek().is_some_and(|token| token.kind == Kind::Word("tensor".to_owned()));
        if is_wrapped {
            self.position += 1;
            self.sign('(', "'(' behind tensor")?;
        }
        let number = match self.peek().map(|token| &token.kind) {
            Some(Kind::Number(text)) => text.parse().ok(),
            _ => None,
        };
        let Some(count) = number else { return self.expected("a count, a whole number from 0") };
        self.position += 1;
        while is_wrapped && !self.takes(')') {
            // Where the number lay: a device, a data type.
            match self.next().map(|token| token.kind) {
                Some(Kind::Sign(',' | '=') | Kind::Word(_) | Kind::Quoted(_)) => {}
                _ => {
                    self.position -= 1;
                    return self.expected("')' behind a wrapped count");
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# counts by hand\nconv_configs = {}\n\nconv_configs['A'] = [{'1xkxk': 3, 'kx1x1': 1},\n  {'kxkxk': tensor(0), '1xkxk': tensor(4, device='cuda:1'), }]\nB = [{\"kx1x1\": 2}]\n";

    fn problem(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn names_counts_and_lines_are_read_in_any_order_and_wrapping() {
        let found = parse(TEXT).unwrap();
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
        let lines: Vec<(usize, String)> =
            found[0].layers.iter().map(|layer| (layer.line, layer.channels.to_string())).collect();
        assert_eq!(lines, [(4, "1x3x3:3 3x1x1:1".to_owned()), (5, "1x3x3:4".to_owned())]);
        let alone = parse("[{'kx1x1': 1, '1xkxk': 3}, {'1xkxk': 4}]").unwrap();
        let channels = |found: &PublishedConfiguration| {
            found.layers.iter().map(|layer| layer.channels.clone()).collect::<Vec<_>>()
        };
        assert_eq!(channels(&alone[0]), channels(&found[0]));
        assert_eq!(find(&alone, None), Ok(&alone[0]));
    }

    #[test]
    fn a_misspelt_name_lists_the_names() {
        let found = parse(TEXT).unwrap();
        assert_eq!(find(&found, Some("B")).unwrap().layers.len(), 1);
        for wrong in [Some("CAKES"), None] {
            let error = find(&found, wrong).unwrap_err().to_string();
            assert!(error.ends_with(": A, B") || error.ends_with("has A, B"), "{error}");
        }
    }

    #[test]
    fn errors_say_which_line_and_what_would_be_right() {
        assert!(problem("").contains("holds no configuration"));
        assert!(problem("a = {}").contains("holds no configuration"));
        let unknown = problem("x = [\n{'1xkxk': 3},\n{'kxk': 1}]");
        assert!(unknown.contains("line 3, layer 1: 'kxk' is no kernel; known are kxkxk, 1xkxk"), "{unknown}");
        assert!(
            problem("x = [{'1xkxk': 1, '1xkxk': 2}]").contains("line 1, layer 0: '1xkxk' is given twice")
        );
        assert!(problem("x = [{'1xkxk': 0}]").contains("line 1, layer 0: the allocation gives no channel"));
        assert!(
            problem("x = [{'1xkxk': -1}]").contains("expected a count, a whole number from 0, found '-'")
        );
        assert!(problem("x = [{'1xkxk': 1.5}]").contains("found '1.5'"));
        assert!(problem("x = [{'1xkxk': 4294967296}]").contains("a whole number"));
        assert!(problem("x = [{'1xkxk': 70000}]").contains("more than a layer can have"));
        assert!(problem("x = [{'1xkxk': 1}\n").contains("expected ',' or ']' behind a layer, found the end"));
        assert!(problem("x = [{'1xkxk: 1}]").contains("closing quote"));
        assert!(
            problem("x['a'] = [{'1xkxk': 1}]\nx['a'] = []")
                .contains("line 2: configuration 'a' is given twice")
        );
        assert!(problem("x = {'a': 1}").contains("must be empty"));
        assert!(problem("x = [{'1xkxk': tensor(1]").contains("')' behind a wrapped count"));
    }

    proptest! {
        /// Whatever stands in the file: an answer or an error, never a panic.
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c'\"\\[\\]{}():,=#0-9kx\n .é-]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_was_written_is_read(
            layers in proptest::collection::vec(proptest::collection::vec(0_u32..600, 8), 1..20),
            wrapped in any::<bool>(),
        ) {
            let sums = |counts: &Vec<u32>| counts.iter().any(|count| *count > 0);
            prop_assume!(layers.iter().all(sums));
            let layer = |counts: &Vec<u32>| {
                let entry = |(kernel, count): (Kernel, &u32)| match wrapped {
                    true => format!("'{}': tensor({count}, device='cuda:7')", kernel_name(kernel)),
                    false => format!("'{}': {count}", kernel_name(kernel)),
                };
                // Backwards: positions mean nothing.
                let entries: Vec<String> = Kernel::ALL.into_iter().zip(counts).rev().map(entry).collect();
                format!("{{{}}}", entries.join(", "))
            };
            let text = format!("c['n'] = [{}]", layers.iter().map(layer).collect::<Vec<_>>().join(",\n"));
            let found = parse(&text).unwrap();
            for (read, counts) in found[0].layers.iter().zip(&layers) {
                for (kernel, count) in Kernel::ALL.into_iter().zip(counts) {
                    prop_assert_eq!(read.channels.count(kernel), *count);
                }
            }
            prop_assert_eq!(found[0].layers.len(), layers.len());
        }
    }
}
