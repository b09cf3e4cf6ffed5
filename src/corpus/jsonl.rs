//! JSON lines: an object a line, one field of which is the text of a document. Takes a line, gives the
//! sentences of that field. All other fields are passed over without being built, however deep they are
//! nested.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use memchr::{memchr, memchr2};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use super::fault::Fault;
use super::outline::Begin;
use super::source::place_in;
use super::{Document, Sentence, split, text};
use crate::error::nearest;

/// The sentences of the string in `field` of the object in line number `line`, or some of them where they are `wanted` no
/// more.
pub fn read<'t>(
    object: &'t str,
    field: &str,
    line: u64,
    wanted: &dyn Fn() -> bool,
) -> Result<Document<'t>, Fault> {
    let mut document = match string(object, field)? {
        Cow::Borrowed(string) => text::read(string, line, wanted),
        Cow::Owned(string) => text::read(&string, line, wanted).map(Document::into_owned),
    }?;
    // Line ends within the string are none of the file.
    document.sentences.iter_mut().for_each(|sentence| sentence.line = line);
    Ok(document)
}

/// Where the sentences of the string in `field` begin in the object, as it is written down there; some of them where they
/// are `wanted` no more.
pub fn begins(object: &str, field: &str, wanted: &dyn Fn() -> bool) -> Result<Vec<Begin>, Fault> {
    let string = string(object, field)?;
    let document = text::read(&string, 0, wanted)?;
    let (mut written, mut read) = (string_place(object, field).expect("it was just read"), 0);
    let begin = |sentence: &Sentence<'_>| {
        let at = place_in(&sentence.text, &string);
        written = pass(object, written, at - read);
        read = at;
        Begin { at: written, line: 0, opens: split::opens(&sentence.text) }
    };
    Ok(document.sentences.iter().map(begin).collect())
}

/// The sentences of a part of a string as it is written down in an object in line number `line`; it may be cut before any
/// character, and may go on to the object's end.
pub fn read_part<'o>(written: &str, line: u64) -> Result<Document<'o>, Fault> {
    let string = &written[..string_end(written, 0)];
    let string: String = serde_json::from_str(&format!("\"{string}\"")).map_err(|error| fault(&error, ""))?;
    let mut document = text::read(&string, line, &|| true)?.into_owned();
    document.sentences.iter_mut().for_each(|sentence| sentence.line = line);
    Ok(document)
}

/// Where the string in `field` of an object that has one begins, behind its quote; the last one of the name.
fn string_place(object: &str, field: &str) -> Option<usize> {
    let bytes = object.as_bytes();
    let skip = |from: usize, skipped: &[u8]| {
        from + bytes[from..].iter().take_while(|byte| skipped.contains(byte)).count()
    };
    const SPACE: &[u8] = b" \t\r\n";
    let mut found = None;
    let mut at = skip(0, SPACE) + 1;
    loop {
        at = skip(at, b" \t\r\n,");
        if *bytes.get(at)? != b'"' {
            return found;
        }
        let end = string_end(object, at + 1);
        let key: String = serde_json::from_str(object.get(at..=end)?).ok()?;
        at = skip(skip(end + 1, SPACE) + 1, SPACE);
        if key == field && bytes.get(at) == Some(&b'"') {
            found = Some(at + 1);
        }
        at = value_end(object, at);
    }
}

/// Where the string ends whose inside goes on at `from`: at its quote.
fn string_end(json: &str, mut from: usize) -> usize {
    let bytes = json.as_bytes();
    while let Some(next) = memchr2(b'"', b'\\', &bytes[from.min(bytes.len())..]) {
        if bytes[from + next] == b'"' {
            return from + next;
        }
        from += next + 2;
    }
    bytes.len()
}

/// Where the value ends that begins at `at`, in an object that is well-formed.
fn value_end(json: &str, mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(&byte) = json.as_bytes().get(at) {
        match byte {
            b'"' => at = string_end(json, at + 1),
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => break,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Where one comes to from `at` of a string as it is written down, by so many bytes of the string.
fn pass(json: &str, mut at: usize, mut bytes: usize) -> usize {
    while bytes > 0 {
        let rest = &json.as_bytes()[at..];
        let plain = memchr(b'\\', &rest[..bytes.min(rest.len())]).unwrap_or(bytes);
        (at, bytes) = (at + plain, bytes - plain);
        if bytes > 0 {
            let (written, read) = escape(&json[at..]);
            (at, bytes) = (at + written, bytes.saturating_sub(read));
        }
    }
    at
}

/// Bytes of the escape that `json` begins with, and of the character that it stands for.
fn escape(json: &str) -> (usize, usize) {
    let unit = |at: usize| json.get(at + 2..at + 6).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match unit(0).filter(|_| json.as_bytes().get(1) == Some(&b'u')) {
        None => (2, 1),
        // Half of a pair, of which the other half stands behind it.
        Some(0xd800..=0xdfff) => (12, 4),
        Some(unit) => (6, char::from_u32(unit).map_or(1, char::len_utf8)),
    }
}

/// The string in `field`; the last one, where there are several of the name.
fn string<'t>(object: &'t str, field: &str) -> Result<Cow<'t, str>, Fault> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(object);
    let read =
        deserializer.deserialize_map(Object { field, found: &mut found }).and_then(|()| deserializer.end());
    match (read, found) {
        (Ok(()), Some(text)) => Ok(text),
        (Ok(()), None) => Err(no_field(object, field)),
        (Err(error), _) => Err(fault(&error, field)),
    }
}

fn no_field(object: &str, field: &str) -> Fault {
    let fields: HashMap<String, IgnoredAny> = serde_json::from_str(object).unwrap_or_default();
    let mut names: Vec<String> = fields.into_keys().collect();
    names.sort_unstable();
    Fault::NoField { field: field.to_owned(), nearest: nearest(field, names.into_iter()) }
}

fn fault(error: &serde_json::Error, field: &str) -> Fault {
    // The parser adds a place, as if the line were a file.
    let whole = error.to_string();
    let what = whole.rsplit_once(" at line ").map_or(&*whole, |(what, _)| what);
    let byte = error.column();
    match (error.classify(), what.strip_suffix(", expected a string")) {
        (Category::Data, Some(what)) => {
            Fault::NotText { field: field.to_owned(), byte, what: what.to_owned() }
        }
        _ => Fault::NotJson { byte, what: what.to_owned() },
    }
}

/// Looks for the field in an object.
struct Object<'f, 't> {
    field: &'f str,
    found: &'f mut Option<Cow<'t, str>>,
}

impl<'t> Visitor<'t> for Object<'_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_wanted) = map.next_key_seed(Is(self.field))? {
            if is_wanted {
                *self.found = Some(map.next_value_seed(Text)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether a key is this one.
struct Is<'f>(&'f str);

impl<'t> DeserializeSeed<'t> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// A string, borrowed where nothing in it is escaped.
struct Text;

impl<'t> DeserializeSeed<'t> for Text {
    type Value = Cow<'t, str>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Cow<'t, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'t> for Text {
    type Value = Cow<'t, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'t str) -> Result<Cow<'t, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'t, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `text` as JSON, each character written in one of the ways there are.
    fn written(text: &str, ways: &[u8]) -> String {
        let mut json = String::from("\"");
        for (c, way) in text.chars().zip(ways.iter().cycle()) {
            let must = c < ' ' || "\"\\".contains(c);
            match (way % 3, c) {
                (0, '\n') => json += "\\n",
                (0, '"' | '\\' | '/') => json.extend(['\\', c]),
                (1, c) if !must => json.push(c),
                (_, c) => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| json += &format!("\\u{unit:04X}"))
                }
            }
        }
        json + "\""
    }

    proptest! {
        /// From each sentence on that opens, the rest of the string is read as it is as a whole.
        #[test]
        fn a_string_is_read_from_where_its_sentences_begin(
            text in "([ab.!? \n\"\\\\/\u{e9}\u{3042}\u{1f600}]{1,12}[.!?] ){1,6}z",
            ways in prop::collection::vec(any::<u8>(), 1..9),
            other in "[a\"\\\\{}\\[\\],:]{0,6}",
        ) {
            let (value, key, other) = (written(&text, &ways), written("text", &ways), written(&other, &ways));
            let object = format!(" {{{other} :[{{\"text\":{other}}},1], \"text\":{other},{key}: {value} ,\"b\":{{}}}}");
            let document = read(&object, "text", 7, &|| true).unwrap();
            let all: Vec<&str> = document.sentences.iter().map(|sentence| &*sentence.text).collect();
            let found = begins(&object, "text", &|| true).unwrap();
            prop_assert_eq!(found.len(), all.len());
            for (number, begin) in found.iter().enumerate().filter(|(_, begin)| begin.opens) {
                let rest = read_part(&object[begin.at..], 7).unwrap();
                prop_assert!(rest.sentences.iter().map(|s| &*s.text).eq(all[number..].iter().copied()));
                prop_assert!(rest.sentences.iter().all(|sentence| sentence.line == 7));
            }
        }
    }
}
