//! What a worker is told and what it answers, as bytes.
//!
//! The worker may be in a guest's hands. So its answers are read with care: a
//! length is believed only as far as there are bytes.

use super::failure::{Failure, Refusal};
use super::format::Format;
use super::schema::Schema;
use super::{Ask, Deed, Value};
use externfs::Errno;

/// To a worker.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Request {
    Query(Ask),
    Schema,
    Change(Deed),
}

/// From a worker.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Reply {
    /// It has opened the database and shut itself in.
    Ready,
    /// So many rows, in the file that comes along.
    Rows {
        rows: u64,
    },
    Schema(Schema),
    /// So many rows were changed; the last one inserted has this rowid.
    Changed {
        rows: u64,
        last: i64,
    },
    Refused(Failure),
}

/// Puts values one after the other.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn optional(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.number(0),
            Value::Integer(number) => {
                self.number(1);
                self.number(number.cast_unsigned());
            }
            Value::Real(number) => {
                self.number(2);
                self.number(number.to_bits());
            }
            Value::Text(text) => {
                self.number(3);
                self.text(text);
            }
            Value::Blob(bytes) => {
                self.number(4);
                self.bytes(bytes);
            }
        }
    }

    fn values(&mut self, values: &[Value]) {
        self.number(values.len() as u64);
        values.iter().for_each(|value| self.value(value));
    }
}

/// Takes them back; None when they end too early or make no sense.
pub(crate) struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    pub(crate) fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.number()?).ok()?;
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first.to_vec())
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn optional(&mut self) -> Option<Option<String>> {
        let (is_some, text) = (self.number()? != 0, self.text()?);
        Some(is_some.then_some(text))
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.number()? {
            0 => Value::Null,
            1 => Value::Integer(self.number()?.cast_signed()),
            2 => Value::Real(f64::from_bits(self.number()?)),
            3 => Value::Text(self.text()?),
            4 => Value::Blob(self.bytes()?),
            _ => return None,
        })
    }

    fn values(&mut self) -> Option<Vec<Value>> {
        let count = self.number()?;
        (0..count).map(|_| self.value()).collect()
    }
}

impl Request {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Request::Query(ask) => {
                to.number(0);
                to.text(&ask.sql);
                to.values(&ask.arguments);
                to.number(ask.format as u64);
                to.number(u64::from(ask.explain));
                to.number(u64::from(ask.own));
            }
            Request::Schema => to.number(1),
            Request::Change(deed) => {
                to.number(2);
                to.text(&deed.sql);
                to.values(&deed.arguments);
            }
        }
        to.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Request> {
        let mut from = Reader(bytes);
        Some(match from.number()? {
            0 => Request::Query(Ask {
                sql: from.text()?,
                arguments: from.values()?,
                format: Format::from_number(from.number()?)?,
                explain: from.number()? != 0,
                own: from.number()? != 0,
            }),
            1 => Request::Schema,
            2 => Request::Change(Deed { sql: from.text()?, arguments: from.values()? }),
            _ => return None,
        })
    }
}

impl Reply {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Reply::Ready => to.number(0),
            Reply::Rows { rows } => {
                to.number(1);
                to.number(*rows);
            }
            Reply::Schema(schema) => {
                to.number(2);
                schema.put(&mut to);
            }
            Reply::Changed { rows, last } => {
                to.number(3);
                to.number(*rows);
                to.number(last.cast_unsigned());
            }
            Reply::Refused(Failure { refusal, sick }) => {
                to.number(4);
                to.number(u64::from(refusal.errno.raw().unsigned_abs()));
                to.text(&refusal.message);
                to.number(refusal.offset.map_or(u64::MAX, |offset| offset as u64));
                to.optional(refusal.limit.as_deref());
                to.number(u64::from(*sick));
            }
        }
        to.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Reply> {
        let mut from = Reader(bytes);
        Some(match from.number()? {
            0 => Reply::Ready,
            1 => Reply::Rows { rows: from.number()? },
            2 => Reply::Schema(Schema::take(&mut from)?),
            3 => Reply::Changed { rows: from.number()?, last: from.number()?.cast_signed() },
            4 => {
                let errno = Errno::from_raw(i32::try_from(from.number()?).unwrap_or(libc::EIO));
                let message = from.text()?;
                let offset = from.number()?;
                let offset = usize::try_from(offset).ok().filter(|_| offset != u64::MAX);
                let refusal = Refusal { errno, message, offset, limit: from.optional()? };
                Reply::Refused(Failure { refusal, sick: from.number()? != 0 })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{Column, Table, TableKind};
    use super::*;

    fn requests() -> Vec<Request> {
        let values = vec![Value::Null, Value::Integer(-7), Value::Real(0.5), Value::from("ä'"), Value::Blob(vec![0, 255])];
        let ask = Ask { sql: "select ?1".into(), arguments: values.clone(), format: Format::JsonLines, explain: true, own: false };
        vec![Request::Query(ask), Request::Schema, Request::Change(Deed { sql: "x".into(), arguments: values })]
    }

    fn replies() -> Vec<Reply> {
        let column = |default: Option<&str>| Column {
            name: "c".into(),
            declared: String::new(),
            not_null: true,
            default: default.map(str::to_owned),
            key: 1,
            generated: false,
        };
        let table = Table {
            name: "t".into(),
            kind: TableKind::View,
            sql: "create".into(),
            without_rowid: true,
            columns: vec![column(None), column(Some(""))],
        };
        let placed = Refusal { offset: Some(3), limit: Some("time".into()), ..Refusal::new(Errno::ETIME, "slow") };
        vec![
            Reply::Ready,
            Reply::Rows { rows: 3 },
            Reply::Schema(Schema { tables: vec![table] }),
            Reply::Changed { rows: 1, last: -1 },
            Reply::Refused(Failure { refusal: placed, sick: false }),
            Reply::Refused(Failure { refusal: Refusal::new(Errno::EIO, "broken"), sick: true }),
        ]
    }

    #[test]
    fn what_is_sent_arrives() {
        for request in requests() {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
        }
        for reply in replies() {
            assert_eq!(Reply::from_bytes(&reply.to_bytes()), Some(reply));
        }
    }

    #[test]
    fn half_a_frame_is_none() {
        for whole in replies().iter().map(Reply::to_bytes) {
            (0..whole.len()).for_each(|length| assert_eq!(Reply::from_bytes(&whole[..length]), None));
        }
        for whole in requests().iter().map(Request::to_bytes) {
            (0..whole.len()).for_each(|length| assert_eq!(Request::from_bytes(&whole[..length]), None));
        }
        // A length that no memory has.
        let huge = [1u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
        assert_eq!(Request::from_bytes(&[&[0; 8][..], &huge].concat()), None);
    }
}
