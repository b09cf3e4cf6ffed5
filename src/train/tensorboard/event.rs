//! The few messages of TensorBoard's protocol that a run needs, as bytes.
//!
//! Fields and their numbers are those of tensorflow/core/util/event.proto, framework/summary.proto,
//! framework/tensor.proto and of the text plugin. Protocol buffers in a paragraph: a field is its number and its
//! wire type in one varint, `number << 3 | type`, then the value: a varint (type 0), eight bytes (1), a length and
//! so many bytes (2; strings, messages and packed numbers), four bytes (5).

use super::histogram::Histogram;

/// A message in the making.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn doubles(self, field: u64, values: &[f64]) -> Self {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &packed)
    }
}

/// `Event`: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
pub struct Event(Message);

impl Event {
    fn at(time: f64) -> Message {
        Message::default().double(1, time)
    }

    /// What a file begins with.
    pub fn version(time: f64) -> Self {
        Self(Self::at(time).bytes(3, b"brain.Event:2"))
    }

    /// A session that begins with `step`: readers forget what they know of it and of later ones.
    /// `SessionLog`: status = 1, of which START is 1.
    pub fn session_start(time: f64, step: u64) -> Self {
        Self(Self::at(time).integer(2, step).message(7, &Message::default().integer(1, 1)))
    }

    /// Values of a step. `Summary`: value = 1, repeated.
    pub fn summary(time: f64, step: u64, values: Vec<Value>) -> Self {
        let summary =
            values.into_iter().fold(Message::default(), |summary, value| summary.message(1, &value.0));
        Self(Self::at(time).integer(2, step).message(5, &summary))
    }

    /// The event as it is written.
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }
}

/// `Summary.Value`: tag = 1, simple_value = 2, histo = 5, tensor = 8, metadata = 9.
pub struct Value(Message);

impl Value {
    /// A number. TensorBoard's have single precision.
    pub fn scalar(tag: &str, value: f64) -> Self {
        Self(Message::default().bytes(1, tag.as_bytes()).float(2, value as f32))
    }

    /// A text in Markdown: a tensor of one string, for the plugin named "text". `TensorProto`: dtype = 1 (7 is
    /// DT_STRING), tensor_shape = 2, string_val = 8; `TensorShapeProto`: dim = 2 with size = 1;
    /// `SummaryMetadata`: plugin_data = 1 with plugin_name = 1.
    pub fn text(tag: &str, text: &str) -> Self {
        let one = Message::default().message(2, &Message::default().integer(1, 1));
        let tensor = Message::default().integer(1, 7).message(2, &one).bytes(8, text.as_bytes());
        let metadata = Message::default().message(1, &Message::default().bytes(1, b"text"));
        Self(Message::default().bytes(1, tag.as_bytes()).message(8, &tensor).message(9, &metadata))
    }

    /// A distribution. `HistogramProto`: min = 1, max = 2, num = 3, sum = 4, sum_squares = 5, bucket_limit = 6 and
    /// bucket = 7, both packed.
    pub fn histogram(tag: &str, histogram: &Histogram) -> Self {
        let message = Message::default()
            .double(1, histogram.min)
            .double(2, histogram.max)
            .double(3, histogram.count)
            .double(4, histogram.sum)
            .double(5, histogram.sum_of_squares)
            .doubles(6, &histogram.limits)
            .doubles(7, &histogram.counts);
        Self(Message::default().bytes(1, tag.as_bytes()).message(5, &message))
    }
}
