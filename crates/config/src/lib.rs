//! Tidegate: the `config` room. YAML → typed → validated, with every problem at once.

mod decode;
mod diagnostic;
mod hash;
mod load;
pub mod model;
mod record;
mod suggest;
pub mod values;

pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use load::{Loaded, load, load_endpoints, load_str};
pub use model::Config;
