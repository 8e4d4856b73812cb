//! What the parser says about broken syntax, in the words of whoever typed it.

use granit_parser::{ErrorKind, ScanError};

use super::super::report::{Mistake, Path};
use super::build::too_deep;

/// The mistake that a parser's error is, where the parser met it. `bracket`: where the innermost
/// bracket is that was open then.
pub(super) fn mistake(error: &ScanError, text: &str, bracket: Option<usize>) -> Mistake {
    let mark = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let mut at = visible(text, mark);
    if is_tab(error.kind()) {
        // The parser notices the tab before or after it.
        let near = text[..at].ends_with('\t').then(|| at - 1);
        at = near.or_else(|| text[at..].find('\t').map(|next| at + next)).unwrap_or(at);
    }
    let line_start = text[..at].rfind(['\n', '\r']).map_or(0, |end| end + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let mistake = match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(),
        kind => {
            let mistake = Mistake::at(Path::root(), message(kind));
            let above = bracket.filter(|bracket| *bracket < line_start);
            match (help(kind, line, at - line_start), above) {
                (_, Some(bracket)) if !is_tab(kind) => {
                    let line = text[..bracket].matches('\n').count() + 1;
                    let open = text[bracket..].chars().next().unwrap_or('[');
                    mistake.help(format!("is the `{open}` of line {line} ever closed?"))
                }
                (Some(help), _) => mistake.help(help),
                (None, _) => mistake,
            }
        }
    };
    let width = text[at..].chars().next().filter(|c| !c.is_control()).map_or(0, char::len_utf8);
    mistake.span(at..at + width)
}

/// An end of file is shown where the text ends, not on an empty line below it.
fn visible(text: &str, mark: usize) -> usize {
    let mark = (0..=mark).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if text[mark..].trim().is_empty() { mark.min(text.trim_end().len()) } else { mark }
}

fn is_tab(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar
    )
}

fn message(kind: &ErrorKind) -> String {
    match kind {
        kind if is_tab(kind) => "a tab cannot indent".to_owned(),
        ErrorKind::UnclosedFlowCollection { open } => format!("`{open}` is never closed"),
        ErrorKind::UnexpectedEofFlowSequence => "`[` is never closed".to_owned(),
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            "`{` is never closed".to_owned()
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            format!("`{open}` is closed by `{close}`")
        }
        ErrorKind::MisplacedFlowCollectionEnd => "a bracket closes that was never open".to_owned(),
        ErrorKind::ExpectedFlowSequenceSeparator => "expected `,` or `]`".to_owned(),
        ErrorKind::ExpectedFlowMappingSeparator => "expected `,` or `}`".to_owned(),
        ErrorKind::UnclosedQuotedScalar => "a quote is never closed".to_owned(),
        ErrorKind::InvalidIndentation => "this is indented like nothing above".to_owned(),
        ErrorKind::ExpectedBlockMappingKey => "expected a key here".to_owned(),
        ErrorKind::ExpectedBlockSequenceEntry => "expected `- ` or less indentation".to_owned(),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "expected `:` after the key".to_owned()
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            "a `:` cannot stand here".to_owned()
        }
        ErrorKind::UnexpectedCharacter { character } => {
            format!("a text cannot begin with `{}`", character.escape_default())
        }
        kind => kind.to_string(),
    }
}

/// `column`: the byte of `line` where the parser stopped.
fn help(kind: &ErrorKind, line: &str, column: usize) -> Option<&'static str> {
    Some(match kind {
        kind if is_tab(kind) => "indent with spaces, two for each level",
        ErrorKind::UnexpectedCharacter { .. } => "put the text in quotes",
        ErrorKind::UnclosedQuotedScalar => "add the closing quote",
        // Two texts that look innocent and are not: `[::1]:80`, and `{id}` within `{ }`.
        _ if line.contains("[:") || line.contains("]:") => {
            "put an IPv6 address in quotes: `\"[::1]:80\"`"
        }
        _ if line.contains("/{") => {
            "within `{ }` put a path with braces in quotes: `\"/users/{id}\"`"
        }
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping => "add the closing bracket",
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement
            if !line.get(..column).unwrap_or_default().contains(": ") =>
        {
            "is the line indented too deep? The keys of a map begin in one column"
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            "one line holds one `key: value`; a text with `: ` needs quotes"
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry => {
            "give what belongs together the same indentation"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => "write `key: value`",
        _ => return None,
    })
}
