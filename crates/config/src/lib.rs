//! Tidegate: the `config` room. YAML → typed → validated, with every problem at once.
//!
//! A text goes this way: `yaml` makes a tree whose nodes know their places (anchors, merge keys and `${NAME}` resolved) →
//! `merge` unites several files → `decode` reads [`Config`] out of it, key by key, as `model` declares it → `validate` looks at
//! what single values do not say → `names` compares definitions with references. Each step reports what it finds and goes on.

mod checks;
mod decode;
mod diagnostic;
mod env;
mod files;
mod hash;
pub mod import;
mod load;
mod mask;
mod merge;
pub mod model;
mod names;
mod node;
mod problem;
mod record;
mod render;
mod schema;
mod source;
mod suggest;
mod validate;
pub mod values;
mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use load::{Loaded, load, load_endpoints, load_str, load_str_with, load_texts, load_with};
pub use model::Config;
pub use schema::schema;
