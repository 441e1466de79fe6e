//! Walking and writing protobuf messages without generated code.
//!
//! A `Span` is a stretch of the file that knows its offset; slicing one copies nothing. `Span::fields` walks a
//! message and gives each field with the exact bytes that encode it, tag included, so that a field that is not
//! edited can be written back as it was, whatever its order and encoding.
//! A known field number with another wire type than its own is an unknown field, as protobuf has it.

use bytes::Bytes;

use crate::error::Error;
use crate::limits::MAX_GROUPS;

/// A stretch of the file, and where it starts there.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) bytes: Bytes,
    pub(crate) at: u64,
}

/// The content of one field.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Varint(u64),
    Fixed64(u64),
    Len(Span),
    Group,
    Fixed32(u32),
}

/// One field of a message: its number, its content, and the bytes that encode it (tag included).
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) content: Content,
    pub(crate) whole: Span,
}

impl Field {
    /// The payload of a length-delimited field (message, string, bytes, packed numbers).
    pub(crate) fn len(&self) -> Option<&Span> {
        match &self.content {
            Content::Len(span) => Some(span),
            _ => None,
        }
    }
}

impl Span {
    pub(crate) fn new(bytes: Bytes) -> Span {
        Span { bytes, at: 0 }
    }

    fn slice(&self, from: usize, to: usize) -> Span {
        Span {
            bytes: self.bytes.slice(from..to),
            at: self.at + from as u64,
        }
    }

    /// Walks the fields of a message. Stops after the first error.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields { span: self, pos: 0 }
    }

    pub(crate) fn text(&self, what: &'static str) -> Result<&str, Error> {
        std::str::from_utf8(&self.bytes).map_err(|_| Error::Utf8 { what, at: self.at })
    }

    pub(crate) fn string(&self, what: &'static str) -> Result<String, Error> {
        self.text(what).map(str::to_owned)
    }

    /// Reads packed varints.
    pub(crate) fn packed_varints(&self, mut each: impl FnMut(u64)) -> Result<(), Error> {
        let mut pos = 0;
        while pos < self.bytes.len() {
            each(self.read_varint(&mut pos)?);
        }
        Ok(())
    }

    fn read_varint(&self, pos: &mut usize) -> Result<u64, Error> {
        let start = *pos;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(*pos) else {
                return Err(Error::Truncated {
                    what: "a number",
                    at: self.at + start as u64,
                });
            };
            *pos += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Malformed {
            what: "a number of more than 10 bytes",
            at: self.at + start as u64,
        })
    }

    fn read_fixed<const N: usize>(&self, pos: &mut usize) -> Result<[u8; N], Error> {
        let truncated = Error::Truncated {
            what: "a number",
            at: self.at + *pos as u64,
        };
        let bytes = self
            .bytes
            .get(*pos..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or(truncated)?;
        *pos += N;
        Ok(*bytes)
    }

    fn read_tag(&self, pos: &mut usize) -> Result<(u32, u8), Error> {
        let start = *pos;
        let tag = self.read_varint(pos)?;
        let number = tag >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(Error::Malformed {
                what: "an impossible field number",
                at: self.at + start as u64,
            });
        }
        Ok((number as u32, (tag & 7) as u8))
    }

    fn read_content(&self, pos: &mut usize, number: u32, wire: u8) -> Result<Content, Error> {
        let start = *pos;
        match wire {
            0 => Ok(Content::Varint(self.read_varint(pos)?)),
            1 => Ok(Content::Fixed64(u64::from_le_bytes(self.read_fixed(pos)?))),
            2 => {
                let len = self.read_varint(pos)?;
                let left = self.bytes.len() - *pos;
                let len = usize::try_from(len).ok().filter(|len| *len <= left).ok_or(
                    Error::Truncated {
                        what: "a field",
                        at: self.at + start as u64,
                    },
                )?;
                let from = *pos;
                *pos += len;
                Ok(Content::Len(self.slice(from, *pos)))
            }
            3 => self.skip_group(pos, number).map(|()| Content::Group),
            5 => Ok(Content::Fixed32(u32::from_le_bytes(self.read_fixed(pos)?))),
            _ => Err(Error::Malformed {
                what: "an impossible wire type",
                at: self.at + start as u64,
            }),
        }
    }

    /// Skips to behind the end of the group that was just opened.
    fn skip_group(&self, pos: &mut usize, number: u32) -> Result<(), Error> {
        let start = self.at + *pos as u64;
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let (number, wire) = self.read_tag(pos)?;
            match wire {
                3 if open.len() >= MAX_GROUPS => {
                    return Err(Error::Malformed {
                        what: "groups nested too deep",
                        at: start,
                    });
                }
                3 => open.push(number),
                4 if number == innermost => {
                    open.pop();
                }
                4 => {
                    return Err(Error::Malformed {
                        what: "a group that ends another group",
                        at: start,
                    });
                }
                _ => {
                    self.read_content(pos, number, wire)?;
                }
            }
        }
        Ok(())
    }
}

/// Iterator over the fields of a message.
pub(crate) struct Fields<'a> {
    span: &'a Span,
    pos: usize,
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.span.bytes.len() {
            return None;
        }
        let start = self.pos;
        let field = self
            .span
            .read_tag(&mut self.pos)
            .and_then(|(number, wire)| {
                let content = self.span.read_content(&mut self.pos, number, wire)?;
                Ok(Field {
                    number,
                    content,
                    whole: self.span.slice(start, self.pos),
                })
            });
        if field.is_err() {
            self.pos = self.span.bytes.len();
        }
        Some(field)
    }
}

/// A second occurrence of a singular message field adds to the first: the merged message is, by the definition of
/// the format, the concatenation. Files that do this are rare, so the copy does not matter.
pub(crate) fn merge(first: Option<Span>, second: &Span) -> Span {
    match first {
        None => second.clone(),
        Some(first) => Span {
            bytes: [&first.bytes[..], &second.bytes[..]].concat().into(),
            at: first.at,
        },
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

pub(crate) fn put_float(out: &mut Vec<u8>, number: u32, value: f32) {
    put_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_header(out, number, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a string field unless the string is empty, which is what its absence means.
pub(crate) fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

/// Writes a key-value entry (metadata, external data) as field `number`.
pub(crate) fn put_entry(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, key.as_bytes());
    put_bytes(&mut entry, 2, value.as_bytes());
    put_bytes(out, number, &entry);
}

/// Reads a key-value entry.
pub(crate) fn read_entry(entry: &Span) -> Result<(String, String), Error> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in entry.fields() {
        let field = field?;
        match (field.number, field.len()) {
            (1, Some(text)) => key = text.string("a metadata key")?,
            (2, Some(text)) => value = text.string("a metadata value")?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The tag and the length of a length-delimited field of `len` bytes.
pub(crate) fn put_header(out: &mut Vec<u8>, number: u32, len: u64) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, len);
}

/// Encoded bytes as a list of pieces, most of them slices of the file: weights are written from where they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    list: Vec<Bytes>,
    len: u64,
}

impl Pieces {
    pub(crate) fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.len += bytes.len() as u64;
            self.list.push(bytes);
        }
    }

    pub(crate) fn append(&mut self, other: Pieces) {
        self.len += other.len;
        self.list.extend(other.list);
    }

    /// Appends `message` as a length-delimited field.
    pub(crate) fn push_message(&mut self, number: u32, message: Pieces) {
        let mut header = Vec::with_capacity(8);
        put_header(&mut header, number, message.len);
        self.push(header);
        self.append(message);
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn list(&self) -> &[Bytes] {
        &self.list
    }

    pub(crate) fn concat(&self) -> Bytes {
        match &self.list[..] {
            [] => Bytes::new(),
            [one] => one.clone(),
            list => list.concat().into(),
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(bytes);
        pieces
    }
}
