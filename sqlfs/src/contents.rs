//! What the files contain.

use crate::fs::SqlFs;
use crate::place::{Leaf, Node, Place, Showing};
use crate::query::{Answer, Ask, Catalog, Format, Freshness, Refusal, Value};
use crate::rows::Writing;
use crate::saved::Draft;
use externfs::helper::read_slice;
use externfs::{DataSink, DataSource, Errno, FileCache, OpenFlags, Opened, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// What one who only reads `query` is told.
const TALK: &str = "write a query to this file and read its answer from the same descriptor:\n    exec 3<>query; echo \"select 1\" >&3; cat <&3; exec 3>&-\n";

/// An open file.
#[derive(Debug)]
pub struct File(pub(crate) Open);

#[derive(Debug)]
pub(crate) enum Open {
    Answer { answer: Answer, _showing: Showing },
    Text { bytes: Vec<u8>, _showing: Showing },
    Draft(Arc<Draft>),
    Talk(Talk),
    Cell(Writing),
}

/// A conversation on one descriptor: what is written is a query, what is read
/// then is its answer, what is written after that is the next one.
///
/// Offsets tell nothing: after a write the descriptor's is behind what was
/// written, after a seek it is 0. So an answer begins wherever it is first
/// read, and a query wherever the first piece is written.
#[derive(Debug)]
pub(crate) struct Talk {
    uid: u32,
    format: Format,
    state: Mutex<TalkState>,
}

#[derive(Debug, Default)]
struct TalkState {
    sql: Vec<u8>,
    /// The answer, and the offset that it begins at.
    answer: Option<(Answer, u64)>,
}

impl SqlFs {
    /// What `open` does after it has asked who it is.
    pub(crate) fn open_place(&self, uid: u32, node: &Node, flags: OpenFlags) -> Result<Opened<File>> {
        let changes = flags.write || flags.truncate;
        match &node.place {
            Place::Draft(_) => {
                let draft = node.draft.clone().ok_or(Errno::ESTALE)?;
                if flags.truncate {
                    draft.resize(0)?;
                }
                let size = draft.facts().size;
                return Ok(Opened { file: File(Open::Draft(draft)), cache: FileCache::Drop, size });
            }
            Place::Talk(_) if flags.write && !flags.read => return Err(Errno::EINVAL.into()),
            Place::Talk(format) if flags.write => {
                let talk = Talk { uid, format: *format, state: Mutex::default() };
                return Ok(Opened { file: File(Open::Talk(talk)), cache: FileCache::Bypass, size: 0 });
            }
            Place::Cell { .. } if changes && self.options.writes => {
                let writing = self.open_cell(uid, node, flags.truncate)?;
                return Ok(Opened { file: File(Open::Cell(writing)), cache: FileCache::Bypass, size: 0 });
            }
            _ if changes => return Err(Errno::EROFS.into()),
            Place::Cell { .. } => self.settle_cell(uid, node)?,
            _ => {}
        }
        let text = |text: String| Ok((None, text.into_bytes()));
        let (answer, bytes) = match &node.place {
            Place::Leaf(leaf) => text(self.leaf(*leaf, uid)?),
            Place::Talk(_) => text(TALK.to_owned()),
            Place::Query(view, sql) => {
                let ask = Ask { explain: view.explain, ..Ask::new(sql, view.format.unwrap_or_default()) };
                self.run(Some(uid), ask).map(|answer| (Some(answer), Vec::new()))
            }
            Place::Saved { name, format, arguments, .. } => {
                let sql = self.saved.get(&format!("{name}.sql")).ok_or(Errno::ENOENT)?.sql()?;
                let arguments = arguments.iter().map(|text| Value::from(text.as_str())).collect();
                let ask = Ask { arguments, ..Ask::new(sql, *format) };
                self.run(Some(uid), ask).map(|answer| (Some(answer), Vec::new()))
            }
            place => self.table_contents(uid, place),
        }?;
        let size = answer.as_ref().map_or(bytes.len() as u64, Answer::size);
        let _showing = Showing::begin(&node.shown, size);
        let file = match answer {
            Some(answer) => Open::Answer { answer, _showing },
            None => Open::Text { bytes, _showing },
        };
        Ok(Opened { file: File(file), cache: FileCache::Bypass, size })
    }

    pub(crate) fn read_file(&self, file: &File, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        match &file.0 {
            Open::Answer { answer, .. } => answer.read(offset, size, sink),
            Open::Text { bytes, .. } => read_slice(bytes, offset, size, sink),
            Open::Draft(draft) => draft.read(offset, size, sink),
            Open::Cell(writing) => writing.read(offset, size, sink),
            Open::Talk(talk) => self.read_talk(talk, offset, size, sink),
        }
    }

    /// Held while the query runs: a second reader waits for the same answer.
    fn talk_state<'t>(&self, talk: &'t Talk) -> Result<MutexGuard<'t, TalkState>> {
        self.engine.take(&talk.state).map_err(|refusal| self.refuse(Some(talk.uid), "query", &refusal))
    }

    pub(crate) fn write_talk(&self, talk: &Talk, source: &mut dyn DataSource) -> Result<usize> {
        let most = self.engine.limits().sql;
        let mut state = self.talk_state(talk)?;
        if state.answer.take().is_some() {
            state.sql.clear();
        }
        let mut piece = vec![0; source.remaining().min(most + 1)];
        let taken = source.take(&mut piece)?;
        piece.truncate(taken);
        if state.sql.len() + taken > most || source.remaining() > 0 {
            state.sql.clear();
            return Err(Errno::EFBIG.into());
        }
        state.sql.extend_from_slice(&piece);
        Ok(taken)
    }

    fn read_talk(&self, talk: &Talk, offset: u64, size: usize, sink: &mut dyn DataSink) -> Result<usize> {
        let mut state = self.talk_state(talk)?;
        if state.answer.is_none() {
            // A query that fails is done with: the next read is an end of file.
            let sql = std::mem::take(&mut state.sql);
            if sql.is_empty() {
                return Ok(0);
            }
            let Ok(sql) = String::from_utf8(sql) else {
                let refusal = Refusal::new(Errno::EINVAL, "a query is UTF-8");
                return Err(self.refuse(Some(talk.uid), "query", &refusal));
            };
            let answer = self.run(Some(talk.uid), Ask::new(sql.trim_end(), talk.format))?;
            state.answer = Some((answer, offset));
        }
        match &state.answer {
            Some((answer, begin)) => answer.read(offset.saturating_sub(*begin), size, sink),
            None => Ok(0),
        }
    }

    fn leaf(&self, leaf: Leaf, uid: u32) -> Result<String> {
        Ok(match leaf {
            Leaf::Readme => catalogs_readme(self.engine.catalogs()) + include_str!("readme.txt"),
            Leaf::Errors => self.journal.show(uid),
            Leaf::Limits => self.limits_text(),
            Leaf::Info => self.info_text()?,
            Leaf::Schema => {
                let schema = self.schema()?;
                schema.tables.iter().filter(|table| !table.sql.is_empty()).map(|table| format!("{};\n", table.sql)).collect()
            }
        })
    }

    fn limits_text(&self) -> String {
        let limits = self.engine.limits();
        let lines = [
            ("time_ms", limits.time.as_millis() as u64),
            ("rows", limits.rows),
            ("bytes", limits.bytes),
            ("heap", limits.heap),
            ("length", limits.length),
            ("sql", limits.sql as u64),
            ("running", limits.running as u64),
            ("queued", limits.queued as u64),
            ("held", limits.held),
        ];
        lines.map(|(name, value)| format!("{name}\t{value}\n")).concat()
    }

    /// What is to be said of catalogs; nothing for another database.
    fn catalog_text(&self) -> String {
        let labels: Vec<&str> = self.engine.catalogs().iter().map(|catalog| catalog.label.as_str()).collect();
        if labels.is_empty() {
            return String::new();
        }
        let freshness = self.engine.freshness();
        let complete = match &freshness {
            None => "unknown: nobody has asked yet",
            Some(Freshness::Building(..) | Freshness::Missing) => "no",
            Some(Freshness::Current | Freshness::Reading(_) | Freshness::AtRest | Freshness::Behind(_) | Freshness::Abandoned) => "yes",
        };
        let standing = freshness.map_or_else(|| "nobody has asked yet".into(), |freshness| freshness.to_string());
        let standing = standing.escape_debug();
        format!("catalog\t{}\nviews\t{}\ncomplete\t{complete}\nstanding\t{standing}\n", labels.join(" "), externfs_catalog::VERSION)
    }

    fn info_text(&self) -> Result<String> {
        let counts = self.engine.counts();
        let tables = self.schema()?.tables.len();
        let writes = if self.options.writes { "yes" } else { "no" };
        let head = format!(
            "database\t{}\nsqlite\t{}\ntables\t{tables}\nwritable\t{writes}\n",
            crate::words::spell(&self.name),
            rusqlite::version()
        );
        let head = head + &self.catalog_text();
        let numbers = [
            ("answered", counts.answered),
            ("refused", counts.refused),
            ("killed", counts.killed),
            ("running", counts.running as u64),
            ("queued", counts.queued as u64),
            ("held", counts.held),
        ];
        Ok(head + &numbers.map(|(name, value)| format!("{name}\t{value}\n")).concat())
    }
}

/// What a tree's catalog has, for those who look around; and whose views there
/// are beside them.
fn catalogs_readme(catalogs: &[Catalog]) -> String {
    let Some((first, others)) = catalogs.split_first() else { return String::new() };
    let beside = others.iter().map(|other| format!("So have other trees: {0}_fs, {0}_inodes and so on.\n\n", other.label));
    include_str!("catalog.txt").replace("root_", &format!("{}_", first.label)) + &beside.collect::<String>()
}
