//! Bytes to text: encodings by name, what is no text at all, and copies in UTF-8.
//!
//! Encodings in which ASCII bytes are ASCII characters are decoded line by line where they are read. In the
//! others (UTF-16, ISO-2022-JP) a line feed cannot be found by looking for its byte, so the corpus is copied
//! to UTF-8 once. Takes bytes and a label, gives text; knows nothing of pairs.

use std::borrow::Cow;
use std::path::Path;

use encoding_rs::{DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::Bytes;
use crate::{Error, Result, durable};

/// UTF-8's byte order mark.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// How much of a corpus [`check_head`] wants to see.
pub const HEAD: u64 = 1024;

/// Stands in a UTF-8 copy for bytes that meant nothing in the original, so that the line is refused when it
/// is read and not before: no UTF-8 text contains this byte.
const MALFORMED: u8 = 0xff;

/// Read at a time when copying.
const CHUNK: u64 = 1 << 18;

/// The encoding called `label`: WHATWG's labels, and the names that Python's users know.
///
/// # Errors
/// [`crate::ErrorKind::Usage`] where there is none.
pub fn lookup(label: &str) -> Result<&'static Encoding> {
    let name = label.trim().to_ascii_lowercase().replace('_', "-");
    let name = match name.as_str() {
        "latin-1" => "latin1",
        "cp949" | "uhc" | "ms949" => "euc-kr",
        "cp932" | "ms932" => "shift-jis",
        "cp936" | "ms936" => "gbk",
        "cp950" => "big5",
        "utf-16-le" => "utf-16le",
        "utf-16-be" => "utf-16be",
        other => other,
    };
    Encoding::for_label_no_replacement(name.as_bytes())
        .or_else(|| Encoding::for_label_no_replacement(label.as_bytes()))
        .ok_or_else(|| {
            Error::usage(format!(
                "--encoding {label}: no such encoding: try utf-8, latin1, euc-kr, shift_jis, gbk, big5 or utf-16"
            ))
        })
}

/// Says what `head`, the first bytes of a file, is instead of text in `encoding`, with what to do about it.
pub fn check_head(head: &[u8], encoding: &'static Encoding) -> Result<(), &'static str> {
    const COMPRESSED: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "compressed with gzip: unpack it first (gunzip)"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (unzstd)"),
        (b"\xfd7zXZ\0", "compressed with xz: unpack it first (unxz)"),
        (b"BZh", "compressed with bzip2: unpack it first (bunzip2)"),
        (b"PK\x03\x04", "a zip archive: unpack it first (unzip)"),
    ];
    for (magic, what) in COMPRESSED {
        // "BZh" could begin a text; bzip2 goes on with a digit and pi.
        let bzip2_text = magic == b"BZh" && head.get(4..10) != Some(b"1AY&SY");
        if head.starts_with(magic) && !bzip2_text {
            return Err(what);
        }
    }
    if !encoding.is_ascii_compatible() {
        return Ok(());
    }
    match Encoding::for_bom(head) {
        Some((found, _)) if found == UTF_16LE || found == UTF_16BE => {
            return Err("UTF-16, as its byte order mark says: add --encoding utf-16");
        }
        Some((found, _)) if found != encoding => {
            return Err("UTF-8, as its byte order mark says: leave --encoding out");
        }
        _ => {}
    }
    // A stray NUL is a character like any other. In UTF-16 they are every other byte of western text, and
    // elsewhere they come with bytes that are no UTF-8.
    let nuls = memchr::memchr_iter(0, head).count();
    let broken = std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some());
    if nuls * 4 > head.len() {
        return Err(
            "not text, or UTF-16: a quarter of its first bytes are NUL; name its encoding with --encoding",
        );
    }
    if nuls > 0 && broken && encoding == UTF_8 {
        return Err(
            "not text: NUL and bytes that are not UTF-8 at its start; name its encoding with --encoding",
        );
    }
    Ok(())
}

/// The text of `bytes`, borrowed where the bytes already are UTF-8.
///
/// # Errors
/// Where the first malformed byte is.
pub fn decode<'b>(bytes: &'b [u8], encoding: &'static Encoding) -> Result<Cow<'b, str>, usize> {
    if encoding == UTF_8 {
        return match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => Err(std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len)),
        };
    }
    encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .ok_or_else(|| malformed_at(bytes, encoding))
}

/// Where decoding `bytes` fails.
fn malformed_at(bytes: &[u8], encoding: &'static Encoding) -> usize {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = [0; 1024];
    let mut at = 0;
    loop {
        let (result, read, _) = decoder.decode_to_utf8_without_replacement(&bytes[at..], &mut text, true);
        at += read;
        match result {
            DecoderResult::OutputFull => {}
            DecoderResult::InputEmpty => return at,
            DecoderResult::Malformed(length, after) => {
                return at.saturating_sub(usize::from(length) + usize::from(after));
            }
        }
    }
}

/// Writes `bytes` to `path` as UTF-8, in constant memory and durably. A byte order mark goes, and decides
/// between the byte orders of UTF-16; what is malformed makes its line malformed in the copy.
pub fn copy_as_utf8(bytes: &dyn Bytes, encoding: &'static Encoding, path: &Path) -> Result<()> {
    durable::write_stream(path, None, |out| {
        let failed = |error| durable::failed_write(path, None, error);
        transcode(bytes, encoding, &mut |text| out.write_all(text).map_err(failed))
    })
}

fn transcode(
    bytes: &dyn Bytes,
    encoding: &'static Encoding,
    write: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut decoder = encoding.new_decoder();
    let mut text = vec![0; 3 * CHUNK as usize];
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes.len().min(start + CHUNK);
        let chunk = bytes.slice(start..end)?;
        let mut rest = &chunk[..];
        loop {
            let last = end == bytes.len();
            let (result, read, written) = decoder.decode_to_utf8_without_replacement(rest, &mut text, last);
            write(&text[..written])?;
            rest = &rest[read..];
            match result {
                DecoderResult::InputEmpty => break,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => write(&[MALFORMED])?,
            }
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use encoding_rs::{EUC_KR, SHIFT_JIS, WINDOWS_1252};

    use super::*;

    #[test]
    fn encodings_are_found_by_the_names_people_use() {
        for (label, expected) in [
            ("utf-8", UTF_8),
            ("UTF8", UTF_8),
            ("utf_8", UTF_8),
            ("latin1", WINDOWS_1252),
            ("latin-1", WINDOWS_1252),
            ("ISO-8859-1", WINDOWS_1252),
            ("iso_8859-1", WINDOWS_1252),
            ("euc-kr", EUC_KR),
            ("CP949", EUC_KR),
            ("ks_c_5601-1987", EUC_KR),
            ("shift_jis", SHIFT_JIS),
            ("cp932", SHIFT_JIS),
            ("utf-16", UTF_16LE),
            ("utf_16_be", UTF_16BE),
        ] {
            assert_eq!(lookup(label).unwrap(), expected, "{label}");
        }
        for label in ["klingon", "", "replacement", "hz-gb-2312"] {
            assert_eq!(lookup(label).unwrap_err().kind(), crate::ErrorKind::Usage, "{label}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_by_its_first_bytes() {
        let utf16: Vec<u8> = "no mark\tat all\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let korean: Vec<u8> = "가 나 다\t라 마\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let check = |head: &[u8], encoding, hint: Option<&str>| match (check_head(head, encoding), hint) {
            (Ok(()), None) => {}
            (Err(said), Some(hint)) => assert!(said.contains(hint), "{said}"),
            (said, hint) => panic!("{head:?}: {said:?} instead of {hint:?}"),
        };
        check(b"\x1f\x8b\x08\0", UTF_8, Some("gunzip"));
        check(b"\x28\xb5\x2f\xfd$", UTF_8, Some("unzstd"));
        check(b"BZh91AY&SY", UTF_8, Some("bunzip2"));
        check(b"BZh is a name\tof a magic number\n", UTF_8, None);
        check(b"\xff\xfea\0\t\0b\0", UTF_8, Some("--encoding utf-16"));
        check(b"\xfe\xff\0a\0\t\0b", WINDOWS_1252, Some("--encoding utf-16"));
        check(b"\xff\xfea\0\t\0b\0", UTF_16LE, None);
        check(b"\xef\xbb\xbfa\tb\n", UTF_8, None);
        check(b"\xef\xbb\xbfa\tb\n", WINDOWS_1252, Some("leave --encoding out"));
        check(&utf16, UTF_8, Some("--encoding"));
        check(&korean, UTF_8, Some("--encoding"));
        check(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", UTF_8, Some("not text"));
        check(b"\x80\x04\x95\x10\0\x8c", UTF_8, Some("not text"));
        check(b"a NUL \0 is legal\tin text\n", UTF_8, None);
        check("a character cut at the end: \u{ac00}".as_bytes().split_last().unwrap().1, UTF_8, None);
    }

    #[test]
    fn the_place_of_a_malformed_byte_is_known() {
        let check = |bytes: &[u8], encoding, at| assert_eq!(decode(bytes, encoding), Err(at), "{bytes:?}");
        check(b"abc\xffdef", UTF_8, 3);
        check(b"abc\xe4\xb8", UTF_8, 3);
        check(b"abc\xff", EUC_KR, 3);
        check(&[&[b'a'; 3000][..], b"\xff"].concat(), EUC_KR, 3000);
        assert_eq!(decode(b"caf\xe9", WINDOWS_1252).unwrap(), "café");
    }
}
