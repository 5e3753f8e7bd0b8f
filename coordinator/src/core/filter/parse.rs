//! From words to a tree that says nothing of a field which cannot be said of it.
//!
//! ```text
//! filter  = factor { "AND" factor }
//! factor  = term { "OR" term }
//! term    = [ "NOT" | "-" ] ( "(" filter ")" | field operator value )
//! ```

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use super::FilterError;
use super::fields::{Field, Holds};
use super::words::{Operator, Quoted, What, Word, split};

/// Parentheses and negations within each other.
const DEPTH_MAX: usize = 32;

/// A filter, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Compares { place: Place, how: Comparison, with: Value },
    BeginsWith { place: Place, start: String },
    IsThere { place: Place },
}

/// Where a value stands: in a field, or in a map under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub field: &'static str,
    pub key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Number(f64),
    Time(DateTime<Utc>),
}

/// Reads a filter; none if there are no words.
///
/// # Errors
/// It is none.
pub(super) fn parse(text: &str, fields: &[Field]) -> Result<Option<Tree>, FilterError> {
    let words = split(text)?;
    if words.is_empty() {
        return Ok(None);
    }
    let end = text.chars().count() + 1;
    let mut parser = Parser { words: words.into_iter().peekable(), fields, end };
    let tree = parser.filter(0)?;
    match parser.words.next() {
        None => Ok(Some(tree)),
        Some(Word { at, what: What::Close }) => error(at, "this ) closes nothing"),
        Some(Word { at, what: What::Bare(word) }) if ["and", "or", "not"].contains(&word.as_str()) => {
            error(at, format!("write {}, in capitals", word.to_uppercase()))
        }
        Some(Word { at, .. }) => error(at, "write AND or OR between two conditions"),
    }
}

struct Parser<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<Word>>,
    fields: &'a [Field],
    /// Behind the last character.
    end: usize,
}

impl Parser<'_> {
    fn filter(&mut self, depth: usize) -> Result<Tree, FilterError> {
        let mut all = vec![self.factor(depth)?];
        while self.takes(&What::And) {
            all.push(self.factor(depth)?);
        }
        Ok(one_or(all, Tree::All))
    }

    fn factor(&mut self, depth: usize) -> Result<Tree, FilterError> {
        let mut any = vec![self.term(depth)?];
        while self.takes(&What::Or) {
            any.push(self.term(depth)?);
        }
        Ok(one_or(any, Tree::Any))
    }

    fn term(&mut self, depth: usize) -> Result<Tree, FilterError> {
        let Some(Word { at, what }) = self.words.next() else {
            return error(self.end, "a condition is missing: FIELD OPERATOR VALUE");
        };
        if depth > DEPTH_MAX {
            return error(at, format!("more than {DEPTH_MAX} parentheses and NOTs within each other"));
        }
        match what {
            What::Not => Ok(Tree::Not(Box::new(self.term(depth + 1)?))),
            What::Open => {
                let within = self.filter(depth + 1)?;
                match self.takes(&What::Close) {
                    true => Ok(within),
                    false => error(at, "this ( is not closed"),
                }
            }
            What::Bare(name) => self.condition(at, &name),
            What::Quoted(_) => error(at, "a field is missing before this value"),
            _ => error(at, "a condition is missing here: FIELD OPERATOR VALUE"),
        }
    }

    fn takes(&mut self, what: &What) -> bool {
        self.words.next_if(|word| word.what == *what).is_some()
    }

    fn condition(&mut self, at: usize, name: &str) -> Result<Tree, FilterError> {
        let (field, key) = self.field(at, name)?;
        let Some(Word { at: operator_at, what: What::Operator(operator) }) = self.words.next() else {
            return error(at, format!("behind {name} one of = != < <= > >= : is missing"));
        };
        let (value_at, value) = match self.words.next() {
            Some(Word { at, what: What::Bare(word) }) => (at, of_bare(word)),
            Some(Word { at, what: What::Quoted(quoted) }) => (at, quoted),
            Some(Word { at, .. }) => return error(at, format!("a value for {name} is missing here")),
            None => return error(self.end, format!("a value for {name} is missing")),
        };
        let place = Place { field: field.name, key };
        match (operator, field.holds) {
            (Operator::Has, _) => has(value_at, place, field.holds, value),
            (_, Holds::Map) if place.key.is_none() => {
                error(at, format!("{name} is a map: write {name}.KEY = VALUE, or {name}:KEY"))
            }
            (_, holds) => compare(operator_at, operator, value_at, place, holds, value),
        }
    }

    /// A field and the key within it.
    fn field(&mut self, at: usize, name: &str) -> Result<(Field, Option<String>), FilterError> {
        let whole = self.fields.iter().find(|field| field.name == name);
        let of_map = self.fields.iter().filter(|field| matches!(field.holds, Holds::Map));
        let mut in_map =
            of_map.filter_map(|field| Some((field, name.strip_prefix(field.name)?.strip_prefix('.')?)));
        match (whole, in_map.next()) {
            (Some(field), _) => Ok((*field, None)),
            (None, Some((field, ""))) => {
                // A key with odd characters stands in quotes: labels."a:b".
                match self.words.next_if(|word| matches!(word.what, What::Quoted(_))) {
                    Some(Word { what: What::Quoted(key), .. }) => Ok((*field, Some(key.text))),
                    _ => error(at, format!("behind {name} a key is missing")),
                }
            }
            (None, Some((field, key))) => Ok((*field, Some(key.to_owned()))),
            (None, None) => {
                let names: Vec<&str> = self.fields.iter().map(|field| field.name).collect();
                error(at, format!("{name} is no field; there are {}", names.join(", ")))
            }
        }
    }
}

fn one_or(mut parts: Vec<Tree>, join: impl FnOnce(Vec<Tree>) -> Tree) -> Tree {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            join(parts)
        }
    }
}

fn of_bare(word: String) -> Quoted {
    match word.strip_suffix('*') {
        Some(start) => Quoted { text: start.to_owned(), is_open: true },
        None => Quoted { text: word, is_open: false },
    }
}

fn has(at: usize, place: Place, holds: Holds, value: Quoted) -> Result<Tree, FilterError> {
    let is_any = value.is_open && value.text.is_empty();
    match (holds, &place.key) {
        (Holds::Map, None) if !value.is_open => {
            Ok(Tree::IsThere { place: Place { key: Some(value.text), ..place } })
        }
        (Holds::Map, None) => error(at, format!("write {}:KEY, with the whole key", place.field)),
        _ if is_any => Ok(Tree::IsThere { place }),
        _ => error(at, format!("{}:* asks whether there is any; for a value write =", place.field)),
    }
}

fn compare(
    operator_at: usize,
    operator: Operator,
    at: usize,
    place: Place,
    holds: Holds,
    value: Quoted,
) -> Result<Tree, FilterError> {
    let name = place.field;
    let how = match operator {
        Operator::Equal | Operator::Unequal | Operator::Has => Comparison::Equal,
        Operator::Less => Comparison::Less,
        Operator::LessOrEqual => Comparison::LessOrEqual,
        Operator::Greater => Comparison::Greater,
        Operator::GreaterOrEqual => Comparison::GreaterOrEqual,
    };
    let is_ordered = matches!(holds, Holds::Number | Holds::Time);
    if how != Comparison::Equal && !is_ordered {
        return error(operator_at, format!("{name} has no order: write = or != instead of {operator}"));
    }
    let tree = match holds {
        Holds::Text | Holds::Map if value.is_open => Tree::BeginsWith { place, start: value.text },
        _ if value.is_open => return error(at, format!("{name} is compared with a whole value, without *")),
        _ => Tree::Compares { with: read(at, name, holds, value.text)?, place, how },
    };
    Ok(match operator {
        Operator::Unequal => Tree::Not(Box::new(tree)),
        _ => tree,
    })
}

fn read(at: usize, name: &str, holds: Holds, text: String) -> Result<Value, FilterError> {
    match holds {
        Holds::Text | Holds::Map => Ok(Value::Text(text)),
        Holds::Number => {
            let number = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Number);
            let value = text.parse().ok().map(Value::Integer).or_else(number);
            value.map_or_else(|| error(at, format!("{name} is a number, and '{text}' is none")), Ok)
        }
        Holds::Time => {
            let moment = DateTime::parse_from_rfc3339(&text).ok().map(|time| time.to_utc());
            let day = || Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
            moment.or_else(day).map(Value::Time).map_or_else(
                || {
                    error(
                        at,
                        format!("{name} is a time: write 2026-11-30 or 2026-11-30T08:00:00Z, not '{text}'"),
                    )
                },
                Ok,
            )
        }
        Holds::Name { prefix, all } => {
            let stored = text.strip_prefix(prefix).unwrap_or(&text).to_lowercase();
            if all().contains(&stored.as_str()) {
                return Ok(Value::Text(stored));
            }
            let names: Vec<String> = all().iter().map(|name| name.to_uppercase()).collect();
            error(at, format!("'{text}' is no {name}; there are {}", names.join(", ")))
        }
    }
}

fn error<T>(at: usize, problem: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError { at, problem: problem.into() })
}
