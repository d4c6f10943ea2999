//! Reads files of an audit journal without a server: each event as a line of JSON on standard output. Ends with status 1
//! where a file is damaged, torn, or does not continue the one before; what is whole is printed all the same.

use std::io::{self, Write};
use std::process::ExitCode;

use agent_guard::audit::chain::Head;
use agent_guard::audit::journal::Reader;
use agent_guard::audit::journal_text::line;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        let _ = writeln!(io::stderr(), "usage: journal_read FILE... (in the order of their names)");
        return ExitCode::from(2);
    }
    let mut head = None;
    let mut good = true;
    for file in files {
        match read(&file, &mut head) {
            Ok(()) => {}
            Err(why) => {
                good = false;
                let _ = writeln!(io::stderr(), "{file}: {why}");
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(file: &str, head: &mut Option<Head>) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut reader = Reader::new(&bytes).map_err(|damage| damage.word().to_owned())?;
    let columns = reader.header().columns.clone();
    let before = reader.header().before;
    let gap = head.filter(|head| *head != before);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let end = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                writeln!(out, "{}", line(&columns, &entry)).map_err(|error| error.to_string())?;
            }
            Ok(None) => break Ok(()),
            Err(damage) => {
                break Err(format!("{}, behind event {}", damage.word(), reader.head().seq));
            }
        }
    };
    *head = Some(reader.head());
    match gap {
        Some(gap) => Err(format!("it does not continue the file before, which ends with event {}", gap.seq)),
        None => end,
    }
}
