//! Lines that change in place, as text for a terminal; plain lines for everything else.
//!
//! Nothing is printed here: each call returns what is to be printed. Rows stay where they were first
//! drawn; what is further up than the terminal is high is left as it is.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hull_os::pty;

use crate::cli::units::human_size_with_precision;

/// Least time between two drawings of a row whose numbers alone changed.
const REDRAW_PAUSE: Duration = Duration::from_millis(100);
/// Columns of a bar, between its brackets.
const BAR_COLUMNS_MAX: usize = 50;
/// A bar that is shorter says nothing.
const BAR_COLUMNS_MIN: usize = 10;
/// Columns of everything in a row but the bar: name, step, numbers, speed.
const OTHER_COLUMNS: usize = 62;
/// Digits of sizes.
const DIGITS: usize = 4;

/// What is on the screen of one command.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Columns and lines; none: not a terminal.
    size: Option<(usize, usize)>,
    rows: Vec<Row>,
    /// Lines printed so far.
    lines: usize,
}

#[derive(Debug)]
struct Row {
    id: String,
    line: usize,
    status: String,
    /// When this step began, and at which byte.
    began: (Instant, u64),
    drawn: Instant,
}

impl Screen {
    /// For the standard output as it is.
    pub(crate) fn of_stdout() -> Screen {
        let stdout = std::io::stdout();
        let size = pty::window_size(stdout.as_fd()).ok();
        let plain = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let size = size.filter(|size| size.columns > 0 && size.rows > 1 && !plain);
        Screen::new(size.map(|size| (usize::from(size.columns), usize::from(size.rows))))
    }

    fn new(size: Option<(usize, usize)>) -> Screen {
        let (rows, lines) = (Vec::new(), 0);
        Screen { size, rows, lines }
    }

    /// A text that stays.
    pub(crate) fn text(&mut self, text: &str) -> String {
        self.lines += text.matches('\n').count();
        text.to_owned()
    }

    /// A step of what is called so; with a count of bytes where it has one.
    pub(crate) fn row(&mut self, id: &str, status: &str, bytes: Option<(u64, u64)>) -> String {
        let Some((columns, height)) = self.size else {
            // Numbers that change all the time are for terminals.
            return match bytes {
                Some(_) => String::new(),
                None => format!("{id}: {status}\n"),
            };
        };
        let now = Instant::now();
        let current = bytes.map_or(0, |(current, _)| current);
        let known = self.rows.iter().position(|row| row.id == id);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row {
                id: id.to_owned(),
                line: self.lines,
                status: String::new(),
                began: (now, current),
                drawn: now,
            });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        let complete = bytes.is_none_or(|(current, total)| current >= total);
        if row.status == status && !complete && now - row.drawn < REDRAW_PAUSE {
            return String::new();
        }
        if row.status != status {
            status.clone_into(&mut row.status);
            row.began = (now, current);
        }
        row.drawn = now;
        let text = row.text(bytes, columns, now);
        let line = row.line;
        if known.is_none() {
            self.lines += 1;
            return format!("{text}\n");
        }
        let up = self.lines - line;
        if up >= height {
            return String::new();
        }
        // Up, clear, and down again.
        format!("\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r")
    }
}

impl Row {
    fn text(&self, bytes: Option<(u64, u64)>, columns: usize, now: Instant) -> String {
        let mut text = format!("{}: {}", self.id, self.status);
        if let Some((current, total)) = bytes {
            text.push(' ');
            text.push_str(&bar(current, total, columns.saturating_sub(OTHER_COLUMNS)));
            let size = |bytes: u64| human_size_with_precision(bytes as f64, DIGITS);
            let (began, first) = self.began;
            let seconds = (now - began).as_secs_f64();
            let per_second = current.saturating_sub(first) as f64 / seconds.max(f64::EPSILON);
            text.push_str(&format!("{:>8}/{}", size(current), size(total)));
            // Of the first moments a speed says nothing.
            if now - began > REDRAW_PAUSE && current > first {
                text.push_str(&format!(
                    " {:>8}/s",
                    human_size_with_precision(per_second, 3)
                ));
            }
        }
        // A line that breaks would put all others out of place.
        text.chars().take(columns - 1).collect()
    }
}

fn bar(current: u64, total: u64, columns: usize) -> String {
    let columns = columns.min(BAR_COLUMNS_MAX);
    if columns < BAR_COLUMNS_MIN || total == 0 {
        return String::new();
    }
    let done = u128::from(current.min(total)) * columns as u128 / u128::from(total);
    let done = usize::try_from(done).unwrap_or(columns);
    format!("[{}>{}] ", "=".repeat(done), " ".repeat(columns - done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_lines_where_there_is_no_terminal() {
        let mut screen = Screen::new(None);
        assert_eq!(screen.row("a", "Waiting", None), "a: Waiting\n");
        assert_eq!(screen.row("a", "Downloading", Some((1, 2))), "");
        assert_eq!(
            screen.row("a", "Download complete", None),
            "a: Download complete\n"
        );
    }

    #[test]
    fn a_row_changes_in_place_on_a_terminal() {
        let mut screen = Screen::new(Some((100, 24)));
        screen.text("latest: Pulling from x\n");
        assert_eq!(screen.row("a", "Waiting", None), "a: Waiting\n");
        assert_eq!(screen.row("b", "Waiting", None), "b: Waiting\n");
        let drawn = screen.row("a", "Downloading", Some((50, 100)));
        assert!(
            drawn.starts_with("\x1b[2A\r\x1b[2Ka: Downloading [====="),
            "{drawn:?}"
        );
        assert!(drawn.ends_with("50B/100B\x1b[2B\r"), "{drawn:?}");
        assert!(
            screen
                .row("a", "Downloading", Some((100, 100)))
                .contains("100B/100B")
        );
    }

    #[test]
    fn what_has_left_the_terminal_is_not_drawn_again() {
        let mut screen = Screen::new(Some((80, 3)));
        for id in ["a", "b", "c"] {
            screen.row(id, "Waiting", None);
        }
        assert_eq!(screen.row("a", "Pull complete", None), "");
        assert_ne!(screen.row("c", "Pull complete", None), "");
    }

    #[test]
    fn rows_fit_into_narrow_terminals() {
        let mut screen = Screen::new(Some((20, 24)));
        let drawn = screen.row("0123456789ab", "Downloading", Some((1, 2)));
        assert_eq!(drawn.trim_end().chars().count(), 19);
    }
}
