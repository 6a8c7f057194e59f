//! Which name means what. Nothing here runs a query but what `tables.rs` says.

use crate::fs::SqlFs;
use crate::place::{Leaf, Node, Place, View};
use crate::query::Format;
use crate::words::{is_query, shape};
use externfs::{Errno, FileKind, Result};

/// The formats that have a directory, with its name.
fn directories() -> impl Iterator<Item = (String, View)> {
    let formats = Format::ALL.into_iter().filter(|format| *format != Format::Text);
    let formats = formats.map(|format| (format!(".{}", format.name()), View { format: Some(format), explain: false }));
    formats.chain([(".explain".to_owned(), View { format: None, explain: true })])
}

impl SqlFs {
    /// What is called `name` in `parent`.
    pub(crate) fn child(&self, parent: &Place, name: &str) -> Result<Node> {
        match parent {
            Place::Root => self.root_child(name),
            Place::View(view) => self.query(*view, name).map(|place| self.node(place)),
            Place::Partial(view, before) => self.query(*view, &format!("{before}/{name}")).map(|place| self.node(place)),
            Place::Queries => self.saved_child(name),
            Place::Saved { name: query, format, wanted, arguments } => {
                let arguments = arguments.iter().map(String::as_str).chain([name]).map(str::to_owned).collect();
                Ok(self.node(Place::Saved { name: query.clone(), format: *format, wanted: *wanted, arguments }))
            }
            _ => self.table_child(parent, name).map(|place| self.node(place)),
        }
    }

    fn root_child(&self, name: &str) -> Result<Node> {
        let fixed = match name {
            "queries" => Some(Place::Queries),
            "tables" => Some(Place::Tables),
            _ => {
                let leaf = Leaf::ALL.iter().find(|(known, _)| *known == name).map(|(_, leaf)| Place::Leaf(*leaf));
                let view = || directories().find(|(known, _)| known == name).map(|(_, view)| Place::View(view));
                leaf.or_else(view)
            }
        };
        if let Some(place) = fixed {
            return Ok(self.node(place));
        }
        if let ("query", format) = Format::split_suffix(name) {
            return Ok(self.node(Place::Talk(format.unwrap_or_default())));
        }
        self.query(View::default(), name).map(|place| self.node(place))
    }

    /// A query, whole or its beginning.
    fn query(&self, view: View, text: &str) -> Result<Place> {
        if !is_query(text) {
            return Err(Errno::ENOENT.into());
        }
        if text.len() > self.engine.limits().sql {
            return Err(Errno::ENAMETOOLONG.into());
        }
        if shape(text).is_open {
            return Ok(Place::Partial(view, text.to_owned()));
        }
        Ok(match view.format {
            Some(_) => Place::Query(view, text.to_owned()),
            None => {
                let (sql, format) = Format::split_suffix(text);
                Place::Query(View { format, ..view }, sql.to_owned())
            }
        })
    }

    /// A file of `queries/`, or what runs one.
    fn saved_child(&self, name: &str) -> Result<Node> {
        if let Some(draft) = self.saved.get(name) {
            return Ok(self.node_of(draft));
        }
        let (base, format) = Format::split_suffix(name);
        let found = [(name, None), (base, format)].into_iter().find_map(|(name, format)| {
            let draft = self.saved.get(&format!("{name}.sql"))?;
            Some((name, format, draft))
        });
        let (name, format, draft) = found.ok_or(Errno::ENOENT)?;
        let wanted = shape(&draft.sql()?).arguments;
        Ok(self.node(Place::Saved { name: name.to_owned(), format: format.unwrap_or_default(), wanted, arguments: Vec::new() }))
    }

    /// The names in a directory. Queries that nobody has saved are not among them.
    pub(crate) fn names(&self, place: &Place) -> Result<Vec<(String, u64, FileKind)>> {
        let entry = |name: &str, place: &Place| (name.to_owned(), self.number(place), place.kind());
        Ok(match place {
            Place::Root => {
                let leaves = Leaf::ALL.map(|(name, leaf)| entry(name, &Place::Leaf(leaf)));
                let others = [("query", Place::Talk(Format::Text)), ("queries", Place::Queries), ("tables", Place::Tables)];
                let others = others.map(|(name, place)| entry(name, &place));
                let views = directories().map(|(name, view)| entry(&name, &Place::View(view)));
                leaves.into_iter().chain(others).chain(views).collect()
            }
            Place::Queries => self.saved_names(),
            Place::View(_) | Place::Partial(..) | Place::Saved { .. } => Vec::new(),
            _ => self.table_names(place)?,
        })
    }

    fn saved_names(&self) -> Vec<(String, u64, FileKind)> {
        let all = self.saved.all();
        let mut names = Vec::with_capacity(all.len() * 2);
        for (name, draft) in &all {
            let place = Place::Draft(draft.id);
            names.push((name.clone(), self.number(&place), place.kind()));
            let runs = name.strip_suffix(".sql").filter(|base| !base.is_empty() && self.saved.get(base).is_none());
            if let (Some(base), Ok(sql)) = (runs, draft.sql()) {
                let wanted = shape(&sql).arguments;
                let place = Place::Saved { name: base.to_owned(), format: Format::Text, wanted, arguments: Vec::new() };
                names.push((base.to_owned(), self.number(&place), place.kind()));
            }
        }
        names
    }
}
