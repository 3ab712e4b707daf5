//! What reflection knows: the files of `proto/` as their compiler describes them, and which of them declares a name.
//!
//! `scripts/descriptors` makes the file that is read here.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::proto::{Fields, Malformed, Value};

/// A serialized `google.protobuf.FileDescriptorSet`.
static SET: &[u8] = include_bytes!("descriptors.binpb");

/// Files and the names that they declare.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Name and serialized `FileDescriptorProto`.
    files: Vec<(&'static str, &'static [u8])>,
    /// Which file declares a fully qualified name.
    symbols: HashMap<String, usize>,
    /// Fully qualified names, sorted.
    services: Vec<String>,
    messages: Vec<String>,
}

impl Index {
    /// The descriptors of the built-in services, read once.
    pub(super) fn get() -> &'static Index {
        static INDEX: OnceLock<Index> = OnceLock::new();
        // They are a part of this program; a test reads them.
        INDEX.get_or_init(|| Index::read(SET).unwrap_or_default())
    }

    fn read(set: &'static [u8]) -> Result<Self, Malformed> {
        let mut index = Self::default();
        for (_, file) in each(set, 1) {
            let file = file?;
            let at = index.files.len();
            let package = text(file, 2)?;
            index.files.push((text(file, 1)?, file));
            for (_, message) in each(file, 4) {
                index.message(at, package, message?)?;
            }
            for (_, kind) in each(file, 5) {
                index.enumeration(at, package, kind?)?;
            }
            for (_, service) in each(file, 6) {
                let service = service?;
                let name = index.declare(at, package, service)?;
                for (_, method) in each(service, 2) {
                    index.declare(at, &name, method?)?;
                }
                index.services.push(name);
            }
        }
        index.services.sort();
        Ok(index)
    }

    /// Notes the name that a declaration gives itself in its first field.
    fn declare(
        &mut self,
        file: usize,
        scope: &str,
        declaration: &[u8],
    ) -> Result<String, Malformed> {
        let name = text(declaration, 1)?;
        let name = if scope.is_empty() {
            name.to_owned()
        } else {
            format!("{scope}.{name}")
        };
        self.symbols.insert(name.clone(), file);
        Ok(name)
    }

    fn message(
        &mut self,
        file: usize,
        scope: &str,
        message: &'static [u8],
    ) -> Result<(), Malformed> {
        let name = self.declare(file, scope, message)?;
        // Fields and the choices between them.
        for (_, part) in each(message, 2).chain(each(message, 8)) {
            self.declare(file, &name, part?)?;
        }
        for (_, nested) in each(message, 3) {
            self.message(file, &name, nested?)?;
        }
        for (_, kind) in each(message, 4) {
            self.enumeration(file, &name, kind?)?;
        }
        self.messages.push(name);
        Ok(())
    }

    fn enumeration(
        &mut self,
        file: usize,
        scope: &str,
        kind: &'static [u8],
    ) -> Result<(), Malformed> {
        self.declare(file, scope, kind)?;
        for (_, value) in each(kind, 2) {
            // As in C++, values are siblings of their type.
            self.declare(file, scope, value?)?;
        }
        Ok(())
    }

    /// The file of this name.
    pub(super) fn file(&self, name: &str) -> Option<&'static [u8]> {
        self.files
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, file)| *file)
    }

    /// The file that declares this name.
    pub(super) fn declaring(&self, symbol: &str) -> Option<&'static [u8]> {
        self.symbols.get(symbol).map(|at| self.files[*at].1)
    }

    pub(super) fn services(&self) -> &[String] {
        &self.services
    }

    pub(super) fn is_message(&self, name: &str) -> bool {
        self.messages.iter().any(|m| m == name)
    }
}

/// The messages in a repeated field.
fn each(
    message: &'static [u8],
    field: u32,
) -> impl Iterator<Item = (u32, Result<&'static [u8], Malformed>)> {
    Fields::new(message).filter_map(move |found| match found {
        Ok((number, value)) => (number == field).then(|| (number, value.bytes())),
        Err(e) => Some((0, Err(e))),
    })
}

fn text(message: &[u8], field: u32) -> Result<&str, Malformed> {
    for found in Fields::new(message) {
        let (number, value) = found?;
        if number == field {
            return Value::text(value);
        }
    }
    Ok("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_descriptors_declare_what_is_served() {
        let index = Index::read(SET).expect("a valid set");
        assert_eq!(
            index.services(),
            [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ]
        );
        for (symbol, file) in [
            ("grpc.health.v1.Health", "grpc/health/v1/health.proto"),
            ("grpc.health.v1.Health.Watch", "grpc/health/v1/health.proto"),
            (
                "grpc.health.v1.HealthCheckResponse.SERVING",
                "grpc/health/v1/health.proto",
            ),
            (
                "grpc.health.v1.HealthListResponse.StatusesEntry",
                "grpc/health/v1/health.proto",
            ),
            (
                "grpc.reflection.v1.ErrorResponse.error_code",
                "grpc/reflection/v1/reflection.proto",
            ),
            (
                "grpc.reflection.v1alpha.ServerReflectionRequest.message_request",
                "grpc/reflection/v1alpha/reflection.proto",
            ),
        ] {
            let declaring = index.declaring(symbol).expect(symbol);
            assert_eq!(text(declaring, 1), Ok(file));
            assert_eq!(index.file(file), Some(declaring));
        }
        assert!(index.declaring("grpc.health.v1.Nothing").is_none());
        assert!(index.declaring("").is_none());
        assert!(index.is_message("grpc.reflection.v1.ExtensionRequest"));
        assert!(!index.is_message("grpc.health.v1.Health"));
    }
}
