//! What an engine may rely on in a batch.
//!
//! Takes a batch, gives it leave or says what is wrong with it. Knows nothing of any engine.

use crate::collate::HostBatch;
use crate::model::{Arch, ModelConfig};
use crate::{Error, Result};

/// Refuses a batch that indexes beyond the model or its own columns. Devices do not all look, and batches
/// may come out of a file.
///
/// # Errors
/// [`crate::ErrorKind::Data`], naming the row and the value.
pub fn check(batch: &HostBatch, model: &ModelConfig) -> Result<()> {
    let vocab_size = model.vocab_size;
    let refuse = |what: String| Err(Error::data(format!("model: batch refused: {what}")));
    let tokens = batch.rows * batch.seq_len;
    if tokens == 0 {
        return refuse(format!("{} rows of {} tokens", batch.rows, batch.seq_len));
    }
    for (what, entries, expected) in [
        ("ids", batch.ids.len(), tokens),
        ("segments", batch.segments.len(), tokens),
        ("starts", batch.starts.len(), if batch.starts.is_empty() { 0 } else { batch.samples() }),
        ("lengths", batch.lengths.len(), if batch.starts.is_empty() { batch.rows } else { batch.samples() }),
        ("pairs", batch.pairs.len(), batch.samples()),
        ("labels", batch.labels.len(), batch.masked.len()),
    ] {
        if entries != expected {
            return refuse(format!("{entries} {what} where {expected} belong"));
        }
    }
    if let Some(i) = batch.ids.iter().position(|&id| id as usize >= vocab_size) {
        let (row, id) = (i / batch.seq_len, batch.ids[i]);
        return refuse(format!("row {row}: token {id} is not among the vocabulary's {vocab_size}"));
    }
    if let Some(i) = batch.segments.iter().position(|&segment| segment > 2) {
        return refuse(format!("row {}: segment {} is none of 0..3", i / batch.seq_len, batch.segments[i]));
    }
    let mut free = 0;
    for i in 0..batch.samples() {
        let (start, len) = (batch.start(i), batch.lengths[i] as usize);
        let row = start / batch.seq_len;
        if len == 0 || len > batch.seq_len {
            return refuse(format!("sample {i}: length {len} lies outside 1..={}", batch.seq_len));
        }
        if start < free || start + len > (row + 1) * batch.seq_len || row >= batch.rows {
            return refuse(format!(
                "sample {i}: its {len} tokens from {start} on lie not in one row of their own"
            ));
        }
        free = start + len;
        if model.arch == Arch::Bert {
            if batch.sample(i).1.contains(&0) {
                return refuse(format!(
                    "sample {i}: a token of no segment, for which --arch bert has no embedding"
                ));
            }
            if len > model.max_positions {
                return refuse(format!(
                    "sample {i}: {len} tokens, but the model has learned positions for {} only: cut samples with \
                     --seq-len",
                    model.max_positions
                ));
            }
        }
    }
    if let Some(i) = batch.labels.iter().position(|&id| id as usize >= vocab_size) {
        return refuse(format!("label {} is not among the vocabulary's {vocab_size}", batch.labels[i]));
    }
    let padded = |&flat: &u32| {
        let sample = batch.sample_at(flat as usize);
        sample >= batch.samples() || !batch.span(sample).contains(&(flat as usize))
    };
    match batch.masked.iter().find(|flat| padded(flat)) {
        Some(flat) => refuse(format!("masked position {flat} is no token of any sample")),
        None => Ok(()),
    }
}
