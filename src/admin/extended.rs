//! Prepared statements and portals of one console client, and the bodies of the messages that make them.
//!
//! Pure: bytes and commands in, plain data out. PgBouncer's console knows only the simple protocol; psycopg 3, JDBC
//! and most exporters speak the extended one without being asked, so ours knows both. Commands take no parameters, so a
//! statement is a [`Command`] and a portal is a command, the formats its rows are wanted in, and how far it has got.
//! A command runs at its first Execute. Manual: "Extended Query".

use std::collections::HashMap;

use super::command::Command;
use super::control::Complaint;
use super::table::{Column, Format, Formats, RowMessages};

/// Most statements, and names, one console client may hold.
const STATEMENTS_MAX: usize = 1000;
/// Most portals one console client may hold.
const PORTALS_MAX: usize = 16;
/// Longest name of a statement or portal, in bytes.
const NAME_MAX: usize = 256;

/// A Parse body.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse {
    /// Name of the statement; empty is the unnamed one.
    pub statement: String,
    /// Its text.
    pub text: String,
    /// How many parameter types were given.
    pub parameters: u16,
}

/// A Bind body.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind {
    /// Name of the portal; empty is the unnamed one.
    pub portal: String,
    /// Name of the statement.
    pub statement: String,
    /// How many parameter values were given.
    pub parameters: u16,
    /// Formats the rows are wanted in.
    pub formats: Vec<Format>,
}

/// What a Describe or Close is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    /// The statement of this name.
    Statement(String),
    /// The portal of this name.
    Portal(String),
}

/// An Execute body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// Name of the portal.
    pub portal: String,
    /// Most rows wanted now; `None` is all.
    pub rows_max: Option<usize>,
}

/// A command on its way through Execute.
#[derive(Debug)]
pub struct Portal {
    /// The command.
    pub command: Command,
    /// Formats its rows are wanted in.
    pub formats: Formats,
    /// How far it has got.
    pub progress: Progress,
}

/// How far a portal has got.
#[derive(Debug)]
pub enum Progress {
    /// Not yet executed.
    Bound,
    /// These rows are still to be sent.
    Rows(RowMessages),
    /// Executed to its end.
    Complete,
    /// Not executed to its end, but another portal holds its rows now.
    Displaced,
}

/// One client's statements and portals.
#[derive(Debug, Default)]
pub struct Prepared {
    statements: HashMap<String, Command>,
    portals: HashMap<String, Portal>,
}

impl Prepared {
    /// Keeps a statement.
    ///
    /// # Errors
    /// The name is taken or too long, the client holds too many, or the statement wants parameters.
    pub fn parse(&mut self, parse: &Parse, command: Command) -> Result<(), Complaint> {
        let name = &parse.statement;
        if parse.parameters > 0 {
            return Err(Complaint::with_sqlstate("0A000", "commands of the console take no parameters"));
        }
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(Complaint::with_sqlstate("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        check_room("prepared statements", self.statements.len(), STATEMENTS_MAX, name)?;
        self.statements.insert(name.clone(), command);
        Ok(())
    }

    /// Makes a portal of a statement.
    ///
    /// # Errors
    /// There is no such statement, the portal's name is taken or too long, the client holds too many, or parameters or
    /// formats do not fit.
    pub fn bind(&mut self, bind: Bind) -> Result<(), Complaint> {
        let command = self.statement(&bind.statement)?.clone();
        if bind.parameters > 0 {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires 0",
                bind.parameters, bind.statement
            );
            return Err(Complaint::new(message));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(Complaint::with_sqlstate("42P03", format!("cursor \"{}\" already exists", bind.portal)));
        }
        check_room("portals", self.portals.len(), PORTALS_MAX, &bind.portal)?;
        let formats = match columns(&command) {
            // Formats of rows that never come matter to nobody.
            None => Formats::default(),
            Some(columns) => {
                let wanted = bind.formats.len();
                Formats::new(bind.formats, columns.len()).ok_or_else(|| {
                    let has = columns.len();
                    Complaint::new(format!("bind message has {wanted} result formats but query has {has} columns"))
                })?
            }
        };
        self.portals.insert(bind.portal, Portal { command, formats, progress: Progress::Bound });
        Ok(())
    }

    /// The statement of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn statement(&self, name: &str) -> Result<&Command, Complaint> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    /// The portal of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn portal(&mut self, name: &str) -> Result<&mut Portal, Complaint> {
        let missing = || Complaint::with_sqlstate("34000", format!("portal \"{name}\" does not exist"));
        self.portals.get_mut(name).ok_or_else(missing)
    }

    /// Keeps the rows of a portal that are not wanted yet. Those that another one has are let go: a client makes us hold
    /// one table, whatever the number of its portals.
    ///
    /// # Errors
    /// There is no such portal.
    pub fn keep_rows(&mut self, name: &str, rows: RowMessages) -> Result<(), Complaint> {
        for portal in self.portals.values_mut() {
            if matches!(portal.progress, Progress::Rows(_)) {
                portal.progress = Progress::Displaced;
            }
        }
        self.portal(name)?.progress = Progress::Rows(rows);
        Ok(())
    }

    /// Forgets a statement or portal; nothing happens where there is none.
    pub fn close(&mut self, named: &Named) {
        match named {
            Named::Statement(name) => drop(self.statements.remove(name)),
            Named::Portal(name) => drop(self.portals.remove(name)),
        }
    }

    /// DEALLOCATE: forgets one statement, or all.
    ///
    /// # Errors
    /// There is no statement of this name.
    pub fn deallocate(&mut self, name: Option<&str>) -> Result<(), Complaint> {
        match name {
            None => self.statements.clear(),
            Some(name) => {
                self.statements.remove(name).ok_or_else(|| no_statement(name))?;
            }
        }
        Ok(())
    }

    /// A simple query has come: it ends the unnamed statement and portal.
    pub fn close_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    /// The transaction is over, and with it every portal.
    pub fn close_portals(&mut self) {
        self.portals.clear();
    }
}

/// The columns of the rows a command answers with; `None` where it answers with none.
pub fn columns(command: &Command) -> Option<&[Column]> {
    match command {
        Command::Show(show) => show.columns(),
        Command::ShowParameter(parameter) => Some(&parameter.columns),
        Command::ShowHandover => Some(&super::show::fds::HANDOVER),
        _ => None,
    }
}

fn no_statement(name: &str) -> Complaint {
    Complaint::with_sqlstate("26000", format!("prepared statement \"{name}\" does not exist"))
}

/// The unnamed one is replaced and always has room.
fn check_room(what: &str, held: usize, held_max: usize, name: &str) -> Result<(), Complaint> {
    if name.is_empty() {
        return Ok(());
    }
    if name.len() > NAME_MAX {
        return Err(Complaint::with_sqlstate("42622", "name is too long"));
    }
    if held >= held_max {
        return Err(Complaint::with_sqlstate("54000", format!("too many {what} (limit {held_max})")));
    }
    Ok(())
}

impl Parse {
    /// Reads the body; `None` where it is broken.
    pub fn read(body: &[u8]) -> Option<Parse> {
        let mut body = Body(body);
        let parse = Parse { statement: body.string()?, text: body.string()?, parameters: body.u16()? };
        body.skip(4 * usize::from(parse.parameters))?;
        body.end(parse)
    }
}

impl Bind {
    /// Reads the body; `None` where it is broken.
    pub fn read(body: &[u8]) -> Option<Bind> {
        let mut body = Body(body);
        let (portal, statement) = (body.string()?, body.string()?);
        let formats = body.u16()?;
        body.skip(2 * usize::from(formats))?;
        let parameters = body.u16()?;
        for _ in 0..parameters {
            // A negative length is null.
            let len = usize::try_from(body.i32()?).unwrap_or(0);
            body.skip(len)?;
        }
        let formats = (0..body.u16()?).map(|_| body.format()).collect::<Option<Vec<Format>>>()?;
        body.end(Bind { portal, statement, parameters, formats })
    }
}

impl Named {
    /// Reads the body of a Describe or Close; `None` where it is broken.
    pub fn read(body: &[u8]) -> Option<Named> {
        let (kind, rest) = body.split_first()?;
        let mut rest = Body(rest);
        let name = rest.string()?;
        rest.end(match kind {
            b'S' => Named::Statement(name),
            b'P' => Named::Portal(name),
            _ => return None,
        })
    }
}

impl Execute {
    /// Reads the body; `None` where it is broken.
    pub fn read(body: &[u8]) -> Option<Execute> {
        let mut body = Body(body);
        let portal = body.string()?;
        let rows_max = usize::try_from(body.i32()?).ok().filter(|rows_max| *rows_max > 0);
        body.end(Execute { portal, rows_max })
    }
}

/// The text of a Query body, without its NUL; `None` where that is missing. What is not UTF-8 is no command anyway.
pub fn query(body: &[u8]) -> Option<String> {
    let mut body = Body(body);
    let text = body.string()?;
    body.end(text)
}

/// What is left of a message's body.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn string(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    fn u16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn i32(&mut self) -> Option<i32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*number))
    }

    fn format(&mut self) -> Option<Format> {
        match self.u16()? {
            0 => Some(Format::Text),
            1 => Some(Format::Binary),
            _ => None,
        }
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    fn end<T>(&self, whole: T) -> Option<T> {
        self.0.is_empty().then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_are_read_as_the_manual_writes_them() {
        let parse = Parse { statement: "s".into(), text: "SHOW LISTS".into(), parameters: 1 };
        assert_eq!(Parse::read(b"s\0SHOW LISTS\0\0\x01\0\0\0\x17"), Some(parse));

        let bind = Bind {
            portal: "p".into(),
            statement: "s".into(),
            parameters: 2,
            formats: vec![Format::Text, Format::Binary],
        };
        let body = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02hi\0\x02\0\0\0\x01";
        assert_eq!(Bind::read(body), Some(bind));

        assert_eq!(Named::read(b"Ss\0"), Some(Named::Statement("s".into())));
        assert_eq!(Named::read(b"P\0"), Some(Named::Portal(String::new())));
        assert_eq!(Execute::read(b"p\0\0\0\0\x05"), Some(Execute { portal: "p".into(), rows_max: Some(5) }));
        assert_eq!(Execute::read(b"\0\0\0\0\0"), Some(Execute { portal: String::new(), rows_max: None }));
        assert_eq!(query(b"SHOW LISTS\0").as_deref(), Some("SHOW LISTS"));
    }

    #[test]
    fn broken_bodies_are_refused() {
        assert_eq!(Parse::read(b"s\0SHOW LISTS\0\0\x01\0\0"), None);
        assert_eq!(Bind::read(b"p\0s\0\0\0\0\x01\x7f\xff\xff\xff\0\0"), None, "a length beyond the body");
        assert_eq!(Bind::read(b"p\0s\0\0\0\0\0\0\x01\0\x02"), None, "a format that is neither text nor binary");
        assert_eq!(Named::read(b"Xs\0"), None);
        assert_eq!(Named::read(b""), None);
        assert_eq!(Execute::read(b"p\0\0\0\0\x05x"), None, "more than a body");
        assert_eq!(query(b"SHOW LISTS"), None);
        assert_eq!(query(b"SHOW\0LISTS\0"), None);
    }

    #[test]
    fn a_client_cannot_hold_more_than_its_share() {
        let mut prepared = Prepared::default();
        let parse = |name: String| Parse { statement: name, text: String::new(), parameters: 0 };
        for number in 0..STATEMENTS_MAX {
            prepared.parse(&parse(format!("s{number}")), Command::Reload).unwrap();
        }

        let refused = prepared.parse(&parse("one more".into()), Command::Reload).unwrap_err();
        assert_eq!(refused.sqlstate, "54000");
        assert!(prepared.parse(&parse(String::new()), Command::Reload).is_ok(), "the unnamed one still has room");

        let bind = |portal: String| Bind { portal, statement: "s1".into(), parameters: 0, formats: vec![] };
        for number in 0..PORTALS_MAX {
            prepared.bind(bind(format!("p{number}"))).unwrap();
        }
        assert_eq!(prepared.bind(bind("one more".into())).unwrap_err().sqlstate, "54000");

        let long = "x".repeat(NAME_MAX + 1);
        assert_eq!(Prepared::default().parse(&parse(long), Command::Reload).unwrap_err().sqlstate, "42622");
    }

    proptest! {
        #[test]
        fn no_body_makes_them_panic(body in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Parse::read(&body), Bind::read(&body), Named::read(&body), Execute::read(&body), query(&body));
        }
    }
}
