//! Reading the golden files.

use bertstream::collate::HostBatch;
use bertstream::model::{Arch, Init, Layout, ModelConfig};
use bertstream::sample::PairLabel;
use safetensors::{Dtype, SafeTensors};

/// One of the golden files, with the model that it speaks of.
pub struct Golden {
    file: SafeTensors<'static>,
    pub config: ModelConfig,
    pub layout: Layout,
}

impl Golden {
    pub fn read(bytes: &'static [u8], arch: Arch) -> Self {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let number = |name: &str| metadata[name].parse().unwrap();
        let config = ModelConfig {
            arch,
            vocab_size: number("vocab_size"),
            hidden: number("hidden"),
            layers: number("layers"),
            heads: number("heads"),
            dropout: 0.0,
            init: Init::Torch,
            max_positions: 32,
        };
        let layout = Layout::new(&config);
        Self { file, config, layout }
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        floats(&self.file, name)
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        let tensor = self.file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        let values = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        values.map(|value| value.try_into().unwrap()).collect()
    }

    /// One flat column of the tensors `prefix.NAME`, in the layout's order.
    pub fn column(&self, prefix: &str) -> Vec<f32> {
        let named = self.file.names().iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!(named, self.layout.parameters().len(), "the layout misses a parameter of the reference");
        let mut column = vec![];
        for parameter in self.layout.parameters() {
            let name = format!("{prefix}.{}", parameter.name);
            assert_eq!(self.file.tensor(&name).unwrap().shape(), parameter.shape, "{name}");
            let mut values = self.floats(&name);
            if name.contains("seq_relationship") {
                // transformers' class 0 is our class 1: "is next".
                let half = values.len() / 2;
                values.rotate_left(half);
            }
            column.extend(values);
        }
        column
    }

    pub fn batch(&self) -> HostBatch {
        let shape = self.file.tensor("in.bert_input").unwrap().shape().to_vec();
        let (rows, seq_len) = (shape[0], shape[1]);
        let ids = self.integers("in.bert_input");
        let segments = self.integers("in.segment_label").into_iter().map(|s| s as u8).collect();
        let labels = self.integers("in.bert_label");
        let masked: Vec<u32> = (0..).zip(&labels).filter(|(_, l)| **l > 0).map(|(i, _)| i).collect();
        let length = |row: &[u32]| row.iter().filter(|id| **id > 0).count() as u32;
        let pair = |label: u32| if label == 1 { PairLabel::IsNext } else { PairLabel::NotNext };
        HostBatch {
            rows,
            seq_len,
            lengths: ids.chunks(seq_len).map(length).collect(),
            labels: masked.iter().map(|&i| labels[i as usize]).collect(),
            pairs: self.integers("in.is_next").into_iter().map(pair).collect(),
            ids,
            segments,
            masked,
            ..HostBatch::default()
        }
    }
}

/// A tensor's values.
pub fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
