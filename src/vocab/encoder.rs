//! What one thread encodes with: a tokenizer, and whatever it remembers to be faster.
//!
//! Takes texts one after the other, gives their ids. What is remembered never changes an id, so that every
//! thread can have an encoder of its own, with nothing shared to wait for.

use super::Tokenizer;

/// Text to ids, as the tokenizer it comes from does it. `&mut self` is memory for speed: the ids of a text do
/// not depend on those before it.
pub trait Encoder: Send {
    /// As [`Tokenizer::encode`].
    fn encode(&mut self, text: &str, out: &mut Vec<u32>);

    /// As [`Tokenizer::encode_words`].
    fn encode_words(&mut self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>);
}

/// The encoder of a tokenizer that is fast enough without remembering anything.
pub struct Direct<'t, T>(pub &'t T);

impl<T: Tokenizer> Encoder for Direct<'_, T> {
    fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        self.0.encode(text, out);
    }

    fn encode_words(&mut self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>) {
        self.0.encode_words(text, out, begins);
    }
}
