//! Bytes to text: encodings by name, what is no text at all, and streams in UTF-8.
//!
//! Takes bytes in any encoding of the WHATWG standard, gives UTF-8: a line at a time where lines can be cut
//! out of the bytes, else a whole stream in constant memory. Says where bytes are broken; what then happens
//! is the caller's policy. Knows nothing of vocabularies or documents.

use std::borrow::Cow;
use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, UTF_16BE, UTF_16LE};

use crate::{Error, ErrorKind, Result};

/// UTF-8's byte order mark.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// How many of its first bytes tell whether a file is text ([`Encoding::refuse_unless_text`]).
pub const HEAD: usize = 4 << 10;

/// Bytes that are read from a stream at once.
const BLOCK: usize = 256 << 10;

/// No decoder asks for more room than three times this, less what stands for a broken sequence.
const SMALLEST_BLOCK: usize = 16;

/// What [`OnBadBytes::Keep`] puts for a broken sequence: no UTF-8 text contains this byte.
const BROKEN: u8 = 0xff;

/// What to do with bytes that the encoding does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBadBytes {
    /// End the run, naming the place.
    #[default]
    Error,
    /// Read each broken sequence as U+FFFD, and count it.
    Replace,
    /// Leave it broken: a byte that is no UTF-8 stands for each broken sequence, so that whoever reads the
    /// line that it is in finds it malformed. For copies; no flag chooses it.
    #[value(skip)]
    Keep,
}

/// The encoding of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding(&'static encoding_rs::Encoding);

impl Encoding {
    /// UTF-8, the default.
    pub const UTF_8: Self = Self(encoding_rs::UTF_8);

    /// The encoding with a WHATWG label (<https://encoding.spec.whatwg.org/#names-and-labels>), or with
    /// one of Python's other spellings of it. As there, `latin1` means windows-1252, which differs from
    /// Python's in 0x80..=0x9f only.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] with examples where there is no such label.
    pub fn for_label(label: &str) -> Result<Self> {
        let dashed = label.trim().to_ascii_lowercase().replace('_', "-");
        let python = match dashed.as_str() {
            "cp949" | "ms949" | "uhc" => "euc-kr",
            "cp932" | "ms932" => "shift_jis",
            "cp936" | "ms936" => "gbk",
            "cp950" => "big5",
            "latin-1" => "latin1",
            "utf-8-sig" => "utf-8",
            "utf-16-le" => "utf-16le",
            "utf-16-be" => "utf-16be",
            same => same,
        };
        encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())
            .or_else(|| encoding_rs::Encoding::for_label_no_replacement(python.as_bytes()))
            .map(Self)
            .ok_or_else(|| {
                Error::usage(format!(
                    "--encoding {label}: no encoding has this name; some that are: utf-8, latin1, windows-1251, \
                     euc-kr, shift_jis, euc-jp, gb18030, big5, utf-16le, utf-16be"
                ))
            })
    }

    /// The standard's name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether this is UTF-8, so that text can be borrowed as it is.
    pub fn is_utf8(self) -> bool {
        self.0 == encoding_rs::UTF_8
    }

    /// Whether ASCII bytes stand for themselves wherever they stand alone, so that lines can be cut before
    /// they are decoded. Not so for UTF-16 and ISO-2022-JP: use [`Transcoder`].
    pub fn is_ascii_compatible(self) -> bool {
        self.0.is_ascii_compatible()
    }

    /// The text of `bytes` without regard to byte order marks; borrowed where they are UTF-8 already.
    ///
    /// # Errors
    /// Where the first broken sequence begins, from 0.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, usize> {
        if self.is_utf8() {
            return match simdutf8::basic::from_utf8(bytes) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(_) => Err(broken_utf8_at(bytes)),
            };
        }
        self.0
            .decode_without_bom_handling_and_without_replacement(bytes)
            .ok_or_else(|| broken_at(self.0.new_decoder_without_bom_handling(), bytes))
    }

    /// The text of `bytes` as [`Encoding::decode`] gives it, with U+FFFD for each broken sequence, and how many there
    /// were.
    pub fn decode_lossy(self, bytes: &[u8]) -> (String, u64) {
        if self.is_utf8() {
            return utf8_lossy(bytes);
        }
        let mut decoder = self.0.new_decoder_without_bom_handling();
        let longest = decoder.max_utf8_buffer_length(bytes.len()).expect("what lies in memory three times");
        let (mut text, mut at, mut replaced) = (String::with_capacity(longest), 0, 0);
        loop {
            let (result, read) = decoder.decode_to_string_without_replacement(&bytes[at..], &mut text, true);
            at += read;
            match result {
                DecoderResult::InputEmpty => return (text, replaced),
                DecoderResult::OutputFull => text.reserve(longest),
                DecoderResult::Malformed(..) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    replaced += 1;
                }
            }
        }
    }

    /// Refuses what its first bytes (as many as [`HEAD`] or as there are) show not to be text in this
    /// encoding: compressed files, binaries, text in quite another encoding.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] saying what it is and what to do.
    pub fn refuse_unless_text(self, head: &[u8]) -> Result<()> {
        self.why_not_text(head).map_or(Ok(()), |what| Err(Error::data(format!("the file is {what}"))))
    }

    fn why_not_text(self, head: &[u8]) -> Option<&'static str> {
        const MAGICS: [(&[u8], &str); 7] = [
            (b"\x1f\x8b", "compressed with gzip: unpack it first (gzip -d)"),
            (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (zstd -d)"),
            (b"\xfd7zXZ\0", "compressed with xz: unpack it first (xz -d)"),
            (b"BZh", "compressed with bzip2: unpack it first (bzip2 -d)"),
            (b"PK\x03\x04", "a zip archive: unpack it first (unzip)"),
            (b"\xff\xfe\0\0", "UTF-32: convert it first (iconv -f UTF-32 -t UTF-8)"),
            (b"\0\0\xfe\xff", "UTF-32: convert it first (iconv -f UTF-32 -t UTF-8)"),
        ];
        for (magic, what) in MAGICS {
            // "BZh" could begin a text; bzip2 goes on with a digit and pi.
            let bzip2_text = magic == b"BZh" && head.get(4..10) != Some(b"1AY&SY");
            if head.starts_with(magic) && !bzip2_text {
                return Some(what);
            }
        }
        if !self.is_ascii_compatible() {
            return None;
        }
        match encoding_rs::Encoding::for_bom(head) {
            Some((found, _)) if found == UTF_16LE || found == UTF_16BE => {
                return Some("UTF-16, as its byte order mark says: add --encoding utf-16");
            }
            Some((found, _)) if found != self.0 => {
                return Some("UTF-8, as its byte order mark says: leave --encoding out");
            }
            _ => {}
        }
        // An eighth: UTF-16 has the upper bytes of its characters, half of all in western prose and those of
        // the spaces in any other; text has a stray control character at the most.
        let controls = head.iter().filter(|&&byte| byte < 0x20 && !is_text_control(byte.into())).count();
        let many_controls = controls > 0 && controls * 8 >= head.len();
        let nuls = memchr::memchr_iter(0, head).count();
        // The upper byte of a character is the second one in the little-endian kind.
        let little = 2 * memchr::memchr_iter(0, head).filter(|at| at % 2 == 1).count() >= nuls;
        let (kind, what) = match little {
            true => (UTF_16LE, "UTF-16, to judge by its NUL bytes: add --encoding utf-16le"),
            false => (UTF_16BE, "UTF-16, to judge by its NUL bytes: add --encoding utf-16be"),
        };
        if nuls > 0 && many_controls && reads_as(kind, head) {
            return Some(what);
        }
        // Elsewhere NULs come with bytes that are no UTF-8; a sequence cut by the head's end is none of these.
        let broken =
            self.is_utf8() && std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some());
        (many_controls || nuls > 0 && broken)
            .then_some("binary, not text: where it is text, name its encoding with --encoding")
    }
}

/// Control characters that occur in text: white space (what Python's `str.split` cuts at included) and the
/// escape of ISO 2022.
fn is_text_control(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\x1b'..='\x1f' | '\u{85}')
}

/// Whether the start of a text in this encoding could begin like this.
fn reads_as(encoding: &'static encoding_rs::Encoding, head: &[u8]) -> bool {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::with_capacity(3 * head.len());
    let (result, _) = decoder.decode_to_string_without_replacement(head, &mut text, false);
    result == DecoderResult::InputEmpty && text.chars().all(|c| !c.is_control() || is_text_control(c))
}

/// Where the first broken sequence begins in `bytes`, which are not UTF-8.
pub fn broken_utf8_at(bytes: &[u8]) -> usize {
    simdutf8::compat::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len)
}

/// UTF-8 with U+FFFD for each broken sequence, and how many there were.
pub fn utf8_lossy(bytes: &[u8]) -> (String, u64) {
    let (mut text, mut replaced) = (String::with_capacity(bytes.len()), 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            replaced += 1;
        }
    }
    (text, replaced)
}

/// Where decoding `bytes` fails.
fn broken_at(mut decoder: Decoder, bytes: &[u8]) -> usize {
    let mut text = [0; 1024];
    let mut at = 0;
    loop {
        let (result, read, _) = decoder.decode_to_utf8_without_replacement(&bytes[at..], &mut text, true);
        at += read;
        match result {
            DecoderResult::OutputFull => {}
            DecoderResult::InputEmpty => return at,
            DecoderResult::Malformed(length, behind) => {
                return at.saturating_sub(usize::from(length) + usize::from(behind));
            }
        }
    }
}

/// A stream in another encoding, read as UTF-8 in constant memory. A byte order mark at the start is
/// removed; for UTF-16 it also decides the byte order.
pub struct Transcoder<R> {
    inner: R,
    encoding: Encoding,
    decoder: Decoder,
    on_bad_bytes: OnBadBytes,
    /// What was read, and which part of it is still to be decoded.
    raw: Vec<u8>,
    undecoded: std::ops::Range<usize>,
    /// Bytes decoded so far.
    decoded: u64,
    /// What was decoded, and which part of it is still to be given out.
    text: Vec<u8>,
    ungiven: std::ops::Range<usize>,
    /// The end of `inner` was seen; and everything before it was decoded.
    ended: bool,
    finished: bool,
    replaced: u64,
}

impl<R: Read> Transcoder<R> {
    /// Reads `inner` as `encoding`.
    pub fn new(inner: R, encoding: Encoding, on_bad_bytes: OnBadBytes) -> Self {
        Self::with_block(BLOCK, inner, encoding, on_bad_bytes)
    }

    /// [`Transcoder::new`] that reads at most `block` bytes at once, or 16 where that is less.
    pub fn with_block(block: usize, inner: R, encoding: Encoding, on_bad_bytes: OnBadBytes) -> Self {
        let block = block.max(SMALLEST_BLOCK);
        let decoder = if encoding.is_ascii_compatible() {
            encoding.0.new_decoder_with_bom_removal()
        } else {
            encoding.0.new_decoder()
        };
        Self {
            inner,
            encoding,
            decoder,
            on_bad_bytes,
            raw: vec![0; block],
            undecoded: 0..0,
            decoded: 0,
            text: vec![0; 3 * block],
            ungiven: 0..0,
            ended: false,
            finished: false,
            replaced: 0,
        }
    }

    /// Broken sequences so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// The stream underneath.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Decodes up to the next broken sequence, as far as what was read and the buffer reach.
    fn decode(&mut self) -> io::Result<()> {
        if self.undecoded.is_empty() && !self.ended {
            let n = self.inner.read(&mut self.raw)?;
            self.undecoded = 0..n;
            self.ended = n == 0;
        }
        // Room for what stands for a broken sequence.
        let room = self.text.len() - char::REPLACEMENT_CHARACTER.len_utf8();
        let (result, read, mut written) = self.decoder.decode_to_utf8_without_replacement(
            &self.raw[self.undecoded.clone()],
            &mut self.text[..room],
            self.ended,
        );
        self.undecoded.start += read;
        self.decoded += read as u64;
        match result {
            DecoderResult::InputEmpty => self.finished = self.ended,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(length, behind) => {
                let replacement: &[u8] = match self.on_bad_bytes {
                    OnBadBytes::Error => {
                        let at = self.decoded.saturating_sub(u64::from(length) + u64::from(behind));
                        let error = Error::data(format!("byte {}: invalid {}", at + 1, self.encoding.name()));
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                    OnBadBytes::Replace => "\u{fffd}".as_bytes(),
                    OnBadBytes::Keep => &[BROKEN],
                };
                self.replaced += 1;
                self.text[written..][..replacement.len()].copy_from_slice(replacement);
                written += replacement.len();
            }
        }
        self.ungiven = 0..written;
        Ok(())
    }
}

impl<R: Read> Read for Transcoder<R> {
    /// # Errors
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] around a [`crate::Error`] at a broken
    /// sequence; [`stream_error`] gets it out again.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.ungiven.is_empty() && !self.finished {
            self.decode()?;
        }
        let n = out.len().min(self.ungiven.len());
        out[..n].copy_from_slice(&self.text[self.ungiven.start..][..n]);
        self.ungiven.start += n;
        Ok(n)
    }
}

/// What went wrong in reading a stream that may come from a [`Transcoder`].
pub fn stream_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::new(ErrorKind::Io, "reading failed").caused_by(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoding(label: &str) -> Encoding {
        Encoding::for_label(label).unwrap()
    }

    /// Gives at most `step` bytes at a time, so that sequences are cut at every place.
    struct Trickle<'b>(&'b [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let step = out.len().min(self.1);
            self.0.read(&mut out[..step])
        }
    }

    fn transcoded(bytes: &[u8], step: usize, label: &str, policy: OnBadBytes) -> Result<(String, u64)> {
        let mut text = String::new();
        let mut stream = Transcoder::new(Trickle(bytes, step), encoding(label), policy);
        stream.read_to_string(&mut text).map_err(stream_error)?;
        Ok((text, stream.replaced()))
    }

    #[test]
    fn labels_of_the_standard_and_of_python_are_known() {
        let check = |label, name, compatible| {
            let found = encoding(label);
            assert_eq!((found.name(), found.is_ascii_compatible()), (name, compatible), "{label}");
        };
        check("UTF-8", "UTF-8", true);
        check("utf_8", "UTF-8", true);
        check("utf-8-sig", "UTF-8", true);
        check("latin1", "windows-1252", true);
        check("latin_1", "windows-1252", true);
        check("iso-8859-1", "windows-1252", true);
        check("cp949", "EUC-KR", true);
        check("euc_kr", "EUC-KR", true);
        check("shift_jis", "Shift_JIS", true);
        check("cp932", "Shift_JIS", true);
        check("iso_8859-1", "windows-1252", true);
        check("KS_C_5601-1987", "EUC-KR", true);
        check("utf-16", "UTF-16LE", false);
        check("utf_16_be", "UTF-16BE", false);
        // The last three are labels of the standard, which decodes them to nothing.
        for label in ["klingon", "", "replacement", "hz-gb-2312", "iso-2022-kr"] {
            let error = Encoding::for_label(label).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{label}");
            assert!(error.to_string().contains("euc-kr"), "{error}");
        }
    }

    #[test]
    fn text_is_read_in_its_encoding() {
        let check = |label, bytes: &[u8], expected: &str| {
            for step in [1, 2, 3, 100] {
                let (text, replaced) = transcoded(bytes, step, label, OnBadBytes::Error).unwrap();
                assert_eq!((&text[..], replaced), (expected, 0), "{label} by {step}");
            }
            if encoding(label).is_ascii_compatible() && !bytes.starts_with(b"\xef\xbb\xbf") {
                assert_eq!(encoding(label).decode(bytes).unwrap(), expected);
            }
        };
        check("utf-8", "naïve 나".as_bytes(), "naïve 나");
        check("utf-8", b"\xef\xbb\xbfa\xef\xbb\xbfb", "a\u{feff}b");
        check("latin1", b"na\xefve \xe9\t\x80", "naïve é\t€");
        check("euc-kr", b"\xb3\xaa\xb4\xc2 \x8c\x63\n", "나는 똠\n");
        check("cp949", b"\x8c\x64", "똡");
        check("shift_jis", b"\x93\xfa\x96\x7b \x83\x5c", "日本 ソ");
        check("utf-16le", b"\xff\xfea\0\xac\xb0\n\0", "a나\n".replace('나', "\u{b0ac}").as_str());
        check("utf-16be", b"\0a\xd8\x3d\xde\x00", "a😀");
        check("utf-16", b"\xfe\xff\0a\0\t\0b", "a\tb");
    }

    #[test]
    fn broken_sequences_are_placed_or_counted() {
        let check = |label, bytes: &[u8], at: u64, text: &str, count: u64| {
            let place = format!("byte {at}: invalid {}", encoding(label).name());
            for step in [1, 2, 100] {
                let error = transcoded(bytes, step, label, OnBadBytes::Error).unwrap_err();
                assert_eq!((error.kind(), error.to_string()), (ErrorKind::Data, place.clone()), "by {step}");
                let lossy = transcoded(bytes, step, label, OnBadBytes::Replace).unwrap();
                assert_eq!(lossy, (text.to_owned(), count), "{label} by {step}");
            }
            if encoding(label).is_ascii_compatible() {
                assert_eq!(encoding(label).decode(bytes), Err(at as usize - 1));
            }
        };
        check("utf-8", b"ab\xffc", 3, "ab\u{fffd}c", 1);
        check("utf-8", b"a\xe3\x81 \xc3", 2, "a\u{fffd} \u{fffd}", 2);
        check("euc-kr", b"\xb3\xaa\xff\n", 3, "나\u{fffd}\n", 1);
        check("shift_jis", b"a\x81\nb", 2, "a\u{fffd}\nb", 1);
        check("utf-16le", b"a\0\0\xd8b\0", 3, "a\u{fffd}b", 1);
        check("utf-16le", b"a\0b", 3, "a\u{fffd}", 1);
    }

    #[test]
    fn what_is_not_text_is_refused_with_a_hint() {
        let check = |label, head: &[u8], expected: Option<&str>| match (
            encoding(label).refuse_unless_text(head),
            expected,
        ) {
            (Ok(()), None) => {}
            (Err(error), Some(hint)) => {
                assert_eq!(error.kind(), ErrorKind::Data);
                assert!(error.to_string().contains(hint), "{error}");
            }
            (result, _) => panic!("{head:?}: {result:?}"),
        };
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(bytes).collect()
        };
        check("utf-8", b"plain text\n", None);
        check("utf-8", b"", None);
        check("utf-8", b"one stray \0 in a line of otherwise plain text\n", None);
        check("utf-8", "a character cut at the end: \u{ac00}".as_bytes().split_last().unwrap().1, None);
        check("latin1", b"d\xe9j\xe0 vu", None);
        check("utf-8", b"\x1f\x8b\x08\0", Some("gzip -d"));
        check("utf-16", b"\x1f\x8b\x08\0", Some("gzip -d"));
        check("latin1", b"\x28\xb5\x2f\xfd\x24", Some("zstd -d"));
        check("utf-8", b"BZh91AY&SY", Some("bzip2 -d"));
        check("utf-8", b"BZh is a name\tof a magic number\n", None);
        check("utf-8", b"PK\x03\x04", Some("zip archive"));
        check("utf-16le", b"\xff\xfe\0\0a\0\0\0", Some("UTF-32"));
        check("utf-8", b"\xff\xfea\0b\0", Some("--encoding utf-16"));
        check("latin1", b"\xfe\xff\0a\0b", Some("--encoding utf-16"));
        check("utf-16", b"\xff\xfea\0b\0", None);
        check("utf-8", b"\xef\xbb\xbfa\tb\n", None);
        check("latin1", b"\xef\xbb\xbfa\tb\n", Some("leave --encoding out"));
        check("utf-8", b"a\0b\0c\0", Some("utf-16le"));
        check("latin1", b"\0a\0b\0c", Some("utf-16be"));
        check("utf-16le", b"a\0b\0c\0", None);
        for text in ["no mark\tat all\n", "가 나 다\t라 마\n", "привет мир\tпока\n"] {
            check("utf-8", &utf16(text, u16::to_le_bytes), Some("utf-16le"));
            check("utf-8", &utf16(text, u16::to_be_bytes), Some("utf-16be"));
        }
        check("utf-8", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0", Some("binary"));
        check("utf-8", b"\x80\x04\x95\x10\0\x8c", Some("binary"));
    }

    #[test]
    fn a_broken_sequence_that_is_kept_makes_the_copy_broken_there() {
        let check = |label, bytes: &[u8], expected: &[u8]| {
            for step in [1, 2, 100] {
                let mut copy = Vec::new();
                let stream = Trickle(bytes, step);
                Transcoder::new(stream, encoding(label), OnBadBytes::Keep).read_to_end(&mut copy).unwrap();
                assert_eq!(copy, expected, "{label} by {step}");
            }
        };
        check("utf-16le", b"\xff\xfea\0\0\xd8b\0", b"a\xffb");
        check("utf-16be", b"\0a\0", b"a\xff");
        check("iso-2022-jp", b"a\x80b", b"a\xffb");
    }

    #[test]
    fn a_stream_longer_than_the_buffers_is_read_whole() {
        let text = "naïve 나 😀\n".repeat(BLOCK / 8);
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for step in [BLOCK - 1, usize::MAX] {
            assert!(transcoded(&utf16, step, "utf-16be", OnBadBytes::Error).unwrap() == (text.clone(), 0));
        }
        // As long in UTF-8 as it can get: three bytes for each.
        let broken = vec![0xff; BLOCK + 1];
        let (text, replaced) = transcoded(&broken, usize::MAX, "euc-kr", OnBadBytes::Replace).unwrap();
        assert_eq!((text.len(), replaced), (3 * broken.len(), broken.len() as u64));
    }

    proptest! {
        #[test]
        fn replacing_agrees_with_the_standard_library(
            bytes in proptest::collection::vec(prop_oneof![0x20_u8..0x30, 0x80_u8..=0xff], 0..40),
            step in 1_usize..8,
        ) {
            let (text, replaced) = utf8_lossy(&bytes);
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
            prop_assert_eq!(replaced as usize, text.matches('\u{fffd}').count()
                - bytes.windows(3).filter(|w| w == b"\xef\xbf\xbd").count());
            if !bytes.starts_with(b"\xef\xbb\xbf") {
                let streamed = transcoded(&bytes, step, "utf-8", OnBadBytes::Replace).unwrap();
                prop_assert_eq!((&streamed.0[..], streamed.1), (&text[..], replaced));
            }
            let expected = std::str::from_utf8(&bytes).map(Cow::Borrowed).map_err(|error| error.valid_up_to());
            prop_assert_eq!(Encoding::UTF_8.decode(&bytes), expected);
        }
    }
}
