//! Where statements end in what the dump client prints, by the rules of the client that reads it: quotes, comments and `DELIMITER`.

/// What a byte is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Code,
    Quote(u8),
    /// `/* ... */`. What is in `/*! ... */` is code.
    Comment,
    /// `-- ...` and `# ...`, to the end of the line.
    Line,
}

/// Reads a dump byte by byte.
#[derive(Debug)]
pub(super) struct Statements {
    inside: Inside,
    is_escaped: bool,
    /// Whether nothing of a statement has come since the last one ended.
    is_between: bool,
    /// The last bytes of code, of which the next one may make something else.
    pending: Vec<u8>,
    delimiter: Vec<u8>,
    /// A `\` in a string is only that.
    has_plain_backslashes: bool,
    /// `"` quotes a name, in which a `\` is only that.
    has_ansi_quotes: bool,
}

impl Statements {
    pub(super) fn new() -> Self {
        Self {
            inside: Inside::Code,
            is_escaped: false,
            is_between: true,
            pending: Vec::new(),
            delimiter: b";".to_vec(),
            has_plain_backslashes: false,
            has_ansi_quotes: false,
        }
    }

    /// Whether what comes next begins a statement, or is a comment between two.
    pub(super) fn is_between(&self) -> bool {
        self.is_between && self.pending.is_empty() && self.inside == Inside::Code
    }

    /// Takes a line between two statements that is a command of the client, or says how strings are to be read. Returns whether it was a command,
    /// which is no part of any statement.
    pub(super) fn command(&mut self, line: &[u8]) -> bool {
        if line.starts_with(b"/*!50003 SET sql_mode ") {
            let text = String::from_utf8_lossy(line);
            self.has_plain_backslashes = text.contains("NO_BACKSLASH_ESCAPES");
            self.has_ansi_quotes = text.contains("ANSI");
        }
        let Some(delimiter) = line.strip_prefix(b"DELIMITER ") else {
            return false;
        };
        self.delimiter = delimiter.trim_ascii().to_vec();
        true
    }

    /// Reads on; `code` gets what is neither quoted nor a comment.
    pub(super) fn feed(&mut self, bytes: &[u8], mut code: impl FnMut(u8)) {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match self.inside {
                Inside::Code => self.code(*byte, &mut code),
                Inside::Quote(quote) => rest = self.quoted(quote, *byte, after),
                Inside::Line if *byte == b'\n' => self.inside = Inside::Code,
                Inside::Line => {}
                Inside::Comment => {
                    let is_end = *byte == b'/' && self.pending.last() == Some(&b'*');
                    self.pending.clear();
                    match is_end {
                        true => self.inside = Inside::Code,
                        false => self.pending.push(*byte),
                    }
                }
            }
        }
    }

    /// Returns what comes after that could mean something.
    fn quoted<'a>(&mut self, quote: u8, byte: u8, after: &'a [u8]) -> &'a [u8] {
        let is_plain =
            quote == b'`' || self.has_plain_backslashes || (quote == b'"' && self.has_ansi_quotes);
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if !is_plain => self.is_escaped = true,
            _ if byte == quote => self.inside = Inside::Code,
            _ => {
                let next = after
                    .iter()
                    .position(|byte| *byte == quote || *byte == b'\\');
                return &after[next.unwrap_or(after.len())..];
            }
        }
        after
    }

    fn code(&mut self, byte: u8, code: &mut impl FnMut(u8)) {
        // `/*` and what comes after it: `!` or `M!` makes it code.
        match (&self.pending[..], byte) {
            (b"/*", b'!') | (b"/*M", b'!') => {
                self.pending.clear();
                self.is_between = false;
                return;
            }
            (b"/*", b'M') => return self.pending.push(byte),
            (b"/*" | b"/*M", _) => {
                self.pending.clear();
                self.inside = Inside::Comment;
                return self.pending.push(byte);
            }
            (b"/", b'*') => return self.pending.push(byte),
            _ => {}
        }
        if self.pending.ends_with(b"--") && byte.is_ascii_whitespace() {
            self.take_pending(2, code);
            if byte != b'\n' {
                self.inside = Inside::Line;
            }
            return;
        }
        let goes_on = byte == b'-' && self.pending.last() == Some(&b'-');
        let is_begun = !self.pending.is_empty() && self.delimiter.starts_with(&self.pending);
        let may_end = is_begun && self.delimiter[self.pending.len()..].starts_with(&[byte]);
        if goes_on || may_end {
            self.pending.push(byte);
        } else {
            self.take_pending(0, code);
            match byte {
                b'/' | b'-' => self.pending.push(byte),
                _ if self.delimiter.first() == Some(&byte) => self.pending.push(byte),
                b'#' => self.inside = Inside::Line,
                b'\'' | b'"' | b'`' => {
                    self.inside = Inside::Quote(byte);
                    self.is_between = false;
                }
                _ => {
                    self.is_between &= byte.is_ascii_whitespace();
                    code(byte);
                }
            }
        }
        if self.pending == self.delimiter {
            self.pending.clear();
            self.is_between = true;
        }
    }

    /// What was held back, but for the last bytes, was code.
    fn take_pending(&mut self, but: usize, code: &mut impl FnMut(u8)) {
        let kept = self.pending.len().saturating_sub(but);
        self.is_between &= kept == 0;
        self.pending.drain(..kept).for_each(code);
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes after which each statement ended, read in pieces of any size.
    fn ends(text: &str, delimiter: &str, mode: &str) -> Vec<String> {
        let mut all = Vec::new();
        for size in [1, 2, 3, text.len()] {
            let mut statements = Statements::new();
            statements.command(format!("/*!50003 SET sql_mode = '{mode}' */ ;\n").as_bytes());
            assert!(statements.command(format!("DELIMITER {delimiter}\n").as_bytes()));
            let mut found = Vec::new();
            let mut begun = 0;
            for (at, byte) in text.bytes().enumerate() {
                let was_between = statements.is_between();
                statements.feed(&[byte], |_| {});
                if statements.is_between() && !was_between && begun < at {
                    let statement = text[begun..=at].trim();
                    if statement.ends_with(delimiter) {
                        found.push(statement.to_owned());
                        begun = at + 1;
                    }
                }
            }
            let mut pieces = Statements::new();
            pieces.command(format!("/*!50003 SET sql_mode = '{mode}' */ ;\n").as_bytes());
            pieces.command(format!("DELIMITER {delimiter}\n").as_bytes());
            for piece in text.as_bytes().chunks(size) {
                pieces.feed(piece, |_| {});
            }
            assert_eq!(pieces.is_between(), statements.is_between());
            all = found;
        }
        all
    }

    #[test]
    fn statements_end_where_the_client_ends_them() {
        for (text, delimiter, mode, count) in [
            ("a;\nb;\n", ";", "", 2),
            ("a ';' b;c;", ";", "", 2),
            (r"a '\';' b;c;", ";", "", 2),
            (r"a '\';b;", ";", "NO_BACKSLASH_ESCAPES", 2),
            ("a ''';''' b;", ";", "", 1),
            (r#"a "\" b;"#, ";", "ANSI_QUOTES", 1),
            (r#"a "\";" b;"#, ";", "", 1),
            ("a `;``;` b;", ";", "", 1),
            ("a /* ; ' */ b;", ";", "", 1),
            ("a /**/ b; /* ; */ c;", ";", "", 2),
            ("/*!50003 a ';' b */;", ";", "", 1),
            ("/*M! a ';' b */;", ";", "", 1),
            ("a -- ; it's\nb;", ";", "", 1),
            ("a # ; it's\nb;", ";", "", 1),
            ("a 1--1;b --;\n", ";", "", 2),
            ("a - -1 / 2;b---\n;", ";", "", 2),
            ("a; ;\nb;; c;;", ";;", "", 2),
            ("a 4/2 -1;b;", ";", "", 2),
            ("a;\n;;\nb ;;\n", ";;", "", 2),
        ] {
            let found = ends(text, delimiter, mode);
            assert_eq!(found.len(), count, "{text:?}: {found:?}");
        }
    }

    #[test]
    fn comments_are_between_statements() {
        let mut statements = Statements::new();
        statements.feed(b"a;\n-- it's\n--\n# x'\n/* ' */\n", |_| {});
        assert!(statements.is_between());
        statements.feed(b"/*!40101 SET a */", |_| {});
        assert!(!statements.is_between());
    }
}
