//! JSON lines: an object a line, one field of which is the text of a document. Takes a line, gives the
//! sentences of that field. All other fields are passed over without being built, however deep they are
//! nested.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use super::fault::Fault;
use super::{Document, text};
use crate::error::nearest;

/// The sentences of the string in `field` of the object in line number `line`.
pub fn read<'t>(object: &'t str, field: &str, line: u64) -> Result<Document<'t>, Fault> {
    let mut document = match string(object, field)? {
        Cow::Borrowed(string) => text::read(string, line),
        Cow::Owned(string) => text::read(&string, line).map(Document::into_owned),
    }?;
    // Line ends within the string are none of the file.
    document.sentences.iter_mut().for_each(|sentence| sentence.line = line);
    Ok(document)
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
