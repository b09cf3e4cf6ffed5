//! Text that is not UTF-8, and bytes that are not text.
//!
//! Takes bytes in any encoding of the WHATWG standard, gives UTF-8: a line at a time, or a whole stream in
//! constant memory. Says where bytes are broken. Knows nothing of lines beyond that they can be cut out
//! of an ASCII-compatible encoding, and nothing of vocabularies.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use encoding_rs::{Decoder, DecoderResult};

use crate::{Error, ErrorKind, Result};

/// Bytes that are read from a stream at once.
const BLOCK: usize = 256 << 10;

/// What to do with bytes that the encoding does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBadBytes {
    /// End the run, naming the place.
    #[default]
    Error,
    /// Read each broken sequence as U+FFFD, and count it.
    Replace,
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
            "cp936" => "gbk",
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
                    "no encoding is called {label:?}; some that are: utf-8, latin1, windows-1251, euc-kr, \
                     shift_jis, euc-jp, gb18030, big5, utf-16le, utf-16be"
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
    /// they are decoded. Not so for UTF-16 and ISO-2022-JP: use [`transcode`].
    pub fn is_ascii_compatible(self) -> bool {
        self.0.is_ascii_compatible()
    }

    /// The text of one line of an ASCII-compatible encoding; borrowed where it is UTF-8 already.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] with the 1-based byte of the line where the first broken sequence begins.
    pub fn decode_line(self, line: &[u8]) -> Result<Cow<'_, str>> {
        if self.is_utf8() {
            return match simdutf8::basic::from_utf8(line) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(_) => Err(self.bad_byte(utf8_error_at(line) as u64)),
            };
        }
        match self.0.decode_without_bom_handling_and_without_replacement(line) {
            Some(text) => Ok(text),
            None => {
                let mut out = String::new();
                let mut decoder = self.0.new_decoder_without_bom_handling();
                feed(&mut decoder, line, 0, true, &mut out, |at| Err(self.bad_byte(at)))?;
                Ok(Cow::Owned(out))
            }
        }
    }

    /// The text of one line with U+FFFD for each broken sequence, and how many there were.
    pub fn decode_line_lossy(self, line: &[u8]) -> (Cow<'_, str>, u64) {
        if let Some(text) = self.0.decode_without_bom_handling_and_without_replacement(line) {
            return (text, 0);
        }
        let (mut out, mut replaced) = (String::new(), 0);
        let mut decoder = self.0.new_decoder_without_bom_handling();
        let counted = feed(&mut decoder, line, 0, true, &mut out, |_| {
            replaced += 1;
            Ok(())
        });
        counted.expect("the closure never fails");
        (Cow::Owned(out), replaced)
    }

    /// Refuses what its first bytes show not to be text in this encoding: compressed files, UTF-16 read as
    /// something else, binaries.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] saying what it is and what to do.
    pub fn refuse_unless_text(self, head: &[u8]) -> Result<()> {
        const MAGICS: [(&[u8], &str); 7] = [
            (b"\x1f\x8b", "gzip-compressed; unpack it first: gzip -dc"),
            (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first: zstd -dc"),
            (b"\xfd7zXZ\0", "xz-compressed; unpack it first: xz -dc"),
            (b"BZh", "bzip2-compressed; unpack it first: bzip2 -dc"),
            (b"PK\x03\x04", "a zip archive; unpack it first: unzip -p"),
            (b"\xff\xfe\0\0", "UTF-32; convert it first: iconv -f UTF-32 -t UTF-8"),
            (b"\0\0\xfe\xff", "UTF-32; convert it first: iconv -f UTF-32 -t UTF-8"),
        ];
        if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Error::data(format!("this is {what}")));
        }
        if !self.is_ascii_compatible() {
            return Ok(());
        }
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(Error::data("this begins as UTF-16 does; say --encoding utf-16"));
        }
        let share = |of: &dyn Fn(usize, u8) -> bool| {
            let hits = head.iter().enumerate().filter(|&(at, &byte)| of(at, byte)).count();
            // An eighth: prose in UTF-16 has a half, text with stray control characters far less.
            hits > 0 && hits * 8 >= head.len()
        };
        let (even, odd) = (share(&|at, b| b == 0 && at % 2 == 0), share(&|at, b| b == 0 && at % 2 == 1));
        match (even, odd) {
            (false, true) => Err(Error::data("this looks like UTF-16; say --encoding utf-16le")),
            (true, false) => Err(Error::data("this looks like UTF-16; say --encoding utf-16be")),
            _ if share(&|_, b| b < 0x20 && !matches!(b, b'\t'..=b'\r' | 0x1b..=0x1f)) => {
                Err(Error::data("this is a binary file, not text"))
            }
            _ => Ok(()),
        }
    }

    /// What a broken sequence at 0-based byte `at` is called.
    fn bad_byte(self, at: u64) -> Error {
        Error::data(format!("byte {}: invalid {}", at + 1, self.name()))
    }
}

/// Place of the first broken sequence in `bytes`, which are not UTF-8.
pub(super) fn utf8_error_at(bytes: &[u8]) -> usize {
    simdutf8::compat::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len)
}

/// A stream in another encoding, read as UTF-8 in constant memory. A byte order mark at the start is
/// removed; for UTF-16 it also decides the byte order.
pub struct Transcoder<R> {
    inner: R,
    encoding: Encoding,
    decoder: Decoder,
    on_bad_bytes: OnBadBytes,
    raw: Vec<u8>,
    /// Bytes fed to the decoder so far.
    fed: u64,
    text: String,
    /// Bytes of `text` that have been given out.
    given: usize,
    finished: bool,
    replaced: u64,
}

impl<R: Read> Transcoder<R> {
    /// Reads `inner` as `encoding`.
    pub fn new(inner: R, encoding: Encoding, on_bad_bytes: OnBadBytes) -> Self {
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
            raw: vec![0; BLOCK],
            fed: 0,
            text: String::new(),
            given: 0,
            finished: false,
            replaced: 0,
        }
    }

    /// Broken sequences read as U+FFFD so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// The stream underneath.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Transcoder<R> {
    /// # Errors
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] around a [`crate::Error`] at a broken
    /// sequence; [`stream_error`] gets it out again.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.finished {
            self.text.clear();
            self.given = 0;
            let n = self.inner.read(&mut self.raw)?;
            self.finished = n == 0;
            let (encoding, policy, replaced) = (self.encoding, self.on_bad_bytes, &mut self.replaced);
            feed(
                &mut self.decoder,
                &self.raw[..n],
                self.fed,
                self.finished,
                &mut self.text,
                |at| match policy {
                    OnBadBytes::Error => Err(encoding.bad_byte(at)),
                    OnBadBytes::Replace => {
                        *replaced += 1;
                        Ok(())
                    }
                },
            )
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.fed += n as u64;
        }
        let n = out.len().min(self.text.len() - self.given);
        out[..n].copy_from_slice(&self.text.as_bytes()[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}

/// Writes `input`, which is in `encoding`, to `output` as UTF-8, and gives the number of broken sequences
/// that were replaced.
///
/// # Errors
/// [`ErrorKind::Data`] with the byte where a sequence is broken and `on_bad_bytes` says so,
/// [`ErrorKind::Io`] where reading or writing fails.
pub fn transcode(
    input: impl Read,
    mut output: impl Write,
    encoding: Encoding,
    on_bad_bytes: OnBadBytes,
) -> Result<u64> {
    let mut text = Transcoder::new(input, encoding, on_bad_bytes);
    io::copy(&mut text, &mut output).map_err(stream_error)?;
    output.flush().map_err(stream_error)?;
    Ok(text.replaced())
}

/// What went wrong in a stream that may come from a [`Transcoder`].
pub fn stream_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::new(ErrorKind::Io, "reading or writing failed").caused_by(other),
    }
}

/// Appends the text of `bytes` to `out`, U+FFFD at each broken sequence for which `bad` does not fail; `bad`
/// is given the sequence's place, where `bytes` begin at `base` and the sequence may have begun before.
fn feed(
    decoder: &mut Decoder,
    bytes: &[u8],
    base: u64,
    last: bool,
    out: &mut String,
    mut bad: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut read = 0;
    loop {
        let rest = &bytes[read..];
        // At least the four bytes of one character, so that each turn of the loop gets on.
        let bound = decoder.max_utf8_buffer_length_without_replacement(rest.len());
        out.reserve(bound.unwrap_or(rest.len()).max(4));
        let (result, n) = decoder.decode_to_string_without_replacement(rest, out, last);
        read += n;
        match result {
            DecoderResult::InputEmpty => return Ok(()),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(length, behind) => {
                bad((base + read as u64).saturating_sub(u64::from(length) + u64::from(behind)))?;
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
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
        let mut out = Vec::new();
        let replaced = transcode(Trickle(bytes, step), &mut out, encoding(label), policy)?;
        Ok((String::from_utf8(out).unwrap(), replaced))
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
        check("utf-16", "UTF-16LE", false);
        check("utf_16_be", "UTF-16BE", false);
        let error = Encoding::for_label("klingon").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("euc-kr"), "{error}");
        assert!(Encoding::for_label("iso-2022-kr").is_err(), "the standard decodes it to nothing");
    }

    #[test]
    fn text_is_read_in_its_encoding() {
        let check = |label, bytes: &[u8], expected: &str| {
            for step in [1, 2, 3, 100] {
                let (text, replaced) = transcoded(bytes, step, label, OnBadBytes::Error).unwrap();
                assert_eq!((&text[..], replaced), (expected, 0), "{label} by {step}");
            }
            if encoding(label).is_ascii_compatible() && !bytes.starts_with(b"\xef\xbb\xbf") {
                assert_eq!(encoding(label).decode_line(bytes).unwrap(), expected);
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
                assert_eq!(encoding(label).decode_line(bytes).unwrap_err().to_string(), place);
                let (lossy, counted) = encoding(label).decode_line_lossy(bytes);
                assert_eq!((&lossy[..], counted), (text, count));
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
        check("utf-8", b"plain text\n", None);
        check("utf-8", b"", None);
        check("utf-8", b"one stray \0 in a line of otherwise plain text\n", None);
        check("utf-8", b"\x1f\x8b\x08\0", Some("gzip -dc"));
        check("latin1", b"\x28\xb5\x2f\xfd\x24", Some("zstd -dc"));
        check("utf-8", b"PK\x03\x04", Some("zip archive"));
        check("utf-8", b"\xff\xfea\0b\0", Some("--encoding utf-16"));
        check("utf-16", b"\xff\xfea\0b\0", None);
        check("utf-16le", b"\xff\xfe\0\0a\0\0\0", Some("UTF-32"));
        check("utf-8", b"a\0b\0c\0", Some("utf-16le"));
        check("latin1", b"\0a\0b\0c", Some("utf-16be"));
        check("utf-16le", b"a\0b\0c\0", None);
        check("utf-8", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0", Some("binary"));
    }

    proptest! {
        #[test]
        fn replacing_agrees_with_the_standard_library(
            bytes in proptest::collection::vec(prop_oneof![0x20_u8..0x30, 0x80_u8..=0xff], 0..40),
            step in 1_usize..8,
        ) {
            let (text, replaced) = Encoding::UTF_8.decode_line_lossy(&bytes);
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
            prop_assert_eq!(replaced as usize, text.matches('\u{fffd}').count()
                - bytes.windows(3).filter(|w| w == b"\xef\xbf\xbd").count());
            if !bytes.starts_with(b"\xef\xbb\xbf") {
                let streamed = transcoded(&bytes, step, "utf-8", OnBadBytes::Replace).unwrap();
                prop_assert_eq!((&streamed.0[..], streamed.1), (&text[..], replaced));
            }
            let strict = Encoding::UTF_8.decode_line(&bytes);
            match std::str::from_utf8(&bytes) {
                Ok(text) => prop_assert_eq!(strict.unwrap(), text),
                Err(error) => {
                    let place = format!("byte {}: invalid UTF-8", error.valid_up_to() + 1);
                    prop_assert_eq!(strict.unwrap_err().to_string(), place);
                }
            }
        }
    }
}
