//! Asking whoever sits at the terminal before something is done that is not easily undone.

use std::io::{BufRead, IsTerminal, Write};

use understudy_agent::Cancel;

use crate::exit::CommandError;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// What is about to happen, and what is to be typed.
    pub(crate) text: &'a str,
    /// What must be typed.
    pub(crate) wanted: &'a str,
    /// What there is to confirm, for where nobody is there to do so.
    pub(crate) subject: &'a str,
    /// What to do then.
    pub(crate) hint: &'a str,
}

/// Has a person type what is wanted; anything else is an error, and so is it that there is no terminal.
pub(crate) fn ask(question: &Question<'_>, cancel: &Cancel) -> Result<(), CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage(
            format!(
                "nobody is there to confirm {}: there is no terminal",
                question.subject
            ),
            question.hint,
        ));
    }
    let mut stderr = std::io::stderr();
    // Who does not see the question can answer it all the same.
    let _ = write!(stderr, "{}: ", question.text);
    let _ = stderr.flush();
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed);
    if cancel.is_cancelled() {
        return Err(CommandError::interrupted());
    }
    match read {
        Ok(_) if typed.trim() == question.wanted => Ok(()),
        _ => Err(CommandError::failed("not confirmed: nothing was changed")),
    }
}
