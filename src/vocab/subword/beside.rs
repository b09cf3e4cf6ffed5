//! What lies beside a tokenizer's file and says more about it: `special_tokens_map.json` and
//! `tokenizer_config.json`, as `transformers` writes them.
//!
//! Takes a directory, gives the spellings of tokens with a role and the options of a BERT tokenizer. Both
//! files are optional; a damaged one is refused, since a guess in its place would change ids.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Role, SPELLINGS};
use crate::{Error, Result, durable};

/// Names the tokens with a role.
pub(super) const ROLES_FILE: &str = "special_tokens_map.json";

/// Holds the options, and names them too.
const CONFIG_FILE: &str = "tokenizer_config.json";

/// Largest of these files, in bytes: some list thousands of added tokens.
const MAX_BYTES: u64 = 8 << 20;

/// What these files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    roles: BTreeMap<Role, String>,
    /// `do_lower_case`, `strip_accents`, `tokenize_chinese_chars`, where they are there.
    pub lower_case: Option<bool>,
    pub strip_accents: Option<bool>,
    pub chinese: Option<bool>,
}

impl Beside {
    /// What lies in `directory`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where a file is there and is not JSON, [`crate::ErrorKind::Io`] where it
    /// cannot be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let (names, config) = (object(&directory.join(ROLES_FILE))?, object(&directory.join(CONFIG_FILE))?);
        let mut beside = Self {
            lower_case: config["do_lower_case"].as_bool(),
            strip_accents: config["strip_accents"].as_bool(),
            chinese: config["tokenize_chinese_chars"].as_bool(),
            ..Self::default()
        };
        for (role, _) in SPELLINGS {
            let spelled = |file: &Value| {
                let token = &file[role.key()];
                token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
            };
            if let Some(token) = spelled(&names).or_else(|| spelled(&config)) {
                beside.roles.insert(role, token);
            }
        }
        Ok(beside)
    }

    /// The spelling of the token with `role`.
    pub(super) fn role(&self, role: Role) -> Option<&str> {
        self.roles.get(&role).map(String::as_str)
    }
}

/// The JSON of a file; null where there is none.
fn object(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&durable::read_at_most(path, MAX_BYTES)?)
        .map_err(|error| Error::data(format!("{} is not JSON", path.display())).caused_by(error))
}
