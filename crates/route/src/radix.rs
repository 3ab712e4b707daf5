//! A radix tree over byte strings: every stored prefix of a path is found in one walk over the path, however many
//! prefixes are stored.

/// A tree whose places hold a `T` and know the lowest ordinal inserted at or below them.
#[derive(Clone, Debug)]
pub(crate) struct Radix<T> {
    /// The root, the empty prefix, is the first.
    nodes: Vec<Node<T>>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    /// Bytes between the parent and this node.
    label: Box<[u8]>,
    /// First byte of each child's label, ascending, with the child.
    children: Vec<(u8, u32)>,
    /// Lowest ordinal at or below this node.
    least: u32,
    value: T,
}

impl<T: Default> Radix<T> {
    pub(crate) fn new() -> Radix<T> {
        let root = Node {
            label: Box::default(),
            children: Vec::new(),
            least: u32::MAX,
            value: T::default(),
        };
        Radix { nodes: vec![root] }
    }

    /// The value at a prefix, made if it is not there, to have something of this ordinal put into it.
    pub(crate) fn insert(&mut self, prefix: &[u8], ordinal: u32) -> &mut T {
        let mut at = 0;
        let mut rest = prefix;
        loop {
            self.nodes[at].least = self.nodes[at].least.min(ordinal);
            let Some(&first) = rest.first() else { break };
            let slot = match self.nodes[at]
                .children
                .binary_search_by_key(&first, |(byte, _)| *byte)
            {
                Ok(slot) => slot,
                Err(slot) => {
                    let leaf = self.push(rest, ordinal);
                    self.nodes[at].children.insert(slot, (first, leaf));
                    at = leaf as usize;
                    break;
                }
            };
            let child = self.nodes[at].children[slot].1;
            let label = &self.nodes[child as usize].label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < label.len() {
                // The edge is split: a new node takes its beginning.
                let label = std::mem::take(&mut self.nodes[child as usize].label);
                let middle = self.push(&label[..common], self.nodes[child as usize].least);
                self.nodes[middle as usize]
                    .children
                    .push((label[common], child));
                self.nodes[child as usize].label = label[common..].into();
                self.nodes[at].children[slot].1 = middle;
                at = middle as usize;
            } else {
                at = child as usize;
            }
            rest = &rest[common..];
        }
        &mut self.nodes[at].value
    }

    fn push(&mut self, label: &[u8], least: u32) -> u32 {
        self.nodes.push(Node {
            label: label.into(),
            children: Vec::new(),
            least,
            value: T::default(),
        });
        // Four thousand million nodes do not fit into memory.
        (self.nodes.len() - 1) as u32
    }
}

impl<T> Radix<T> {
    /// Lowest ordinal in the tree.
    pub(crate) fn least(&self) -> u32 {
        self.nodes[0].least
    }

    /// Visits the values on the way of a path, the shortest prefix first, each with the lowest ordinal at or below it,
    /// while `visit` says to go on.
    pub(crate) fn walk<'a>(&'a self, path: &[u8], mut visit: impl FnMut(&'a T, u32) -> bool) {
        let mut node = &self.nodes[0];
        let mut rest = path;
        while visit(&node.value, node.least) {
            let Some(first) = rest.first() else { return };
            let Ok(slot) = node.children.binary_search_by_key(first, |(byte, _)| *byte) else {
                return;
            };
            let child = &self.nodes[node.children[slot].1 as usize];
            let Some(after) = rest.strip_prefix(&*child.label) else {
                return;
            };
            rest = after;
            node = child;
        }
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.iter_mut().map(|node| &mut node.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_walk_visits_exactly_the_stored_prefixes_of_the_path_and_knows_what_lies_below(
            prefixes in proptest::collection::vec("[ab]{0,5}", 0..20), path in "[ab]{0,7}",
        ) {
            let mut tree: Radix<Vec<u32>> = Radix::new();
            for (ordinal, prefix) in (0..).zip(&prefixes) {
                tree.insert(prefix.as_bytes(), ordinal).push(ordinal);
            }
            let mut found = Vec::new();
            let mut bounds = Vec::new();
            tree.walk(path.as_bytes(), |values, least| {
                found.extend_from_slice(values);
                bounds.push(least);
                true
            });
            found.sort_unstable();
            let wanted: Vec<u32> =
                (0..).zip(&prefixes).filter(|(_, prefix)| path.starts_with(*prefix)).map(|(at, _)| at).collect();
            prop_assert_eq!(&found, &wanted);
            prop_assert!(bounds.is_sorted());
            prop_assert_eq!(bounds[0], if prefixes.is_empty() { u32::MAX } else { 0 });
            if let Some(last) = wanted.last() {
                // The deepest prefix found is at or below the last bound that is not above it.
                prop_assert!(bounds.iter().any(|least| least <= last));
            }
        }
    }
}
