//! The names of a layer while it is being written: a pure value, no I/O.
//!
//! Directories stay here whole; of everything else only the position of its inode, which is
//! already in the image. Symbolic links keep their target, because later entries may go through.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::{Attributes, FileType};

/// Names in one layer.
pub const NAMES_MAX: usize = 4_000_000;
/// Memory of one tree, in bytes: about what a million names with everything take.
pub const TREE_BYTES_MAX: usize = 512 << 20;
/// What a name costs beside its text, in bytes: its place in the map and the allocation.
const NAME_COST_BYTES: usize = 64;
/// What a directory costs beside its attributes, in bytes.
const DIRECTORY_COST_BYTES: usize = 512;
/// What an inode costs beside its target, in bytes.
const LEAF_COST_BYTES: usize = 48;
/// Symbolic links on the way to one entry, as in the kernel.
pub const SYMLINKS_FOLLOWED_MAX: usize = 40;

/// A directory of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryId(u32);

/// An inode that is not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafId(u32);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory(DirectoryId),
    /// Anything else.
    Leaf(LeafId),
    /// The removal of a name of the layers below.
    Whiteout,
}

/// The entries of a directory in the order of the format.
pub type Children = BTreeMap<Box<[u8]>, Node>;

/// A directory as it will be written.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) parent: DirectoryId,
    pub(super) attributes: Attributes,
    /// Hides what the layers below have in this directory.
    pub(super) opaque: bool,
    pub(super) children: Children,
}

/// An inode that is already in the image.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) nid: u64,
    pub(super) links: u32,
    pub(super) file_type: FileType,
    target: Option<Box<[u8]>>,
}

/// What a tree of names refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// A file is in the way.
    #[error("something above it is not a directory")]
    ParentIsNotDirectory,
    /// Symbolic links lead in circles.
    #[error("more than {SYMLINKS_FOLLOWED_MAX} symbolic links lead to it")]
    TooManySymlinks,
    /// The layer is too large.
    #[error("the layer has more than {NAMES_MAX} names")]
    TooManyNames,
    /// The names, targets and attributes of the layer are too large.
    #[error("the names and attributes of the layer take more than {TREE_BYTES_MAX} bytes")]
    TooLarge,
    /// A hard link to nothing.
    #[error("the target of the hard link is not in this layer before it")]
    LinkTargetMissing,
    /// A hard link to a directory.
    #[error("the target of the hard link is a directory")]
    LinkTargetIsDirectory,
    /// A hard link through a symbolic link, which could lead anywhere.
    #[error("the way to the target of the hard link passes something that is not a directory")]
    LinkThroughSymlink,
    /// A symbolic link of the layer leads to more than a path can hold.
    #[error("the symbolic links above it make a path that is too long")]
    PathTooLong,
}

/// Components that one resolution may have waiting: many times what any real path has.
const PENDING_COMPONENTS_MAX: usize = 65_536;

/// All names of one layer.
#[derive(Debug)]
pub struct Tree {
    directories: Vec<Directory>,
    leaves: Vec<Leaf>,
    names: usize,
    /// Estimate of all memory ever taken; that of replaced entries is not given back.
    bytes: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The root, which every tree has.
    pub const ROOT: DirectoryId = DirectoryId(0);

    /// A root directory with mode 0755 that belongs to root, and nothing in it.
    pub fn new() -> Self {
        let root = Directory {
            parent: Self::ROOT,
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
            opaque: false,
            children: Children::new(),
        };
        Self {
            directories: vec![root],
            leaves: Vec::new(),
            names: 0,
            bytes: 0,
        }
    }

    /// How many names there are, those of removed entries included.
    pub fn names(&self) -> usize {
        self.names
    }

    /// Finds the directory with this path and makes what is missing with these attributes.
    ///
    /// Symbolic links of the layer are followed as if its root were `/`. A whiteout on the way
    /// becomes an opaque directory: the layer removes what was there and puts something new.
    pub fn directory_at(
        &mut self,
        path: &[&[u8]],
        missing: &Attributes,
    ) -> Result<DirectoryId, TreeFault> {
        let mut pending: VecDeque<Box<[u8]>> = path.iter().map(|&name| name.into()).collect();
        let (mut at, mut followed) = (Self::ROOT, 0);
        while let Some(name) = pending.pop_front() {
            if &name[..] == b".." {
                at = self.directory(at).parent;
                continue;
            }
            at = match self.child(at, &name) {
                Some(Node::Directory(id)) => id,
                None | Some(Node::Whiteout) => self.set_directory(at, &name, missing.clone())?,
                Some(Node::Leaf(id)) => {
                    let target = self.leaves[id.0 as usize].target.as_deref();
                    let target = target.ok_or(TreeFault::ParentIsNotDirectory)?;
                    followed += 1;
                    if followed > SYMLINKS_FOLLOWED_MAX {
                        return Err(TreeFault::TooManySymlinks);
                    }
                    for part in target.rsplit(|&b| b == b'/') {
                        if !part.is_empty() && part != b"." {
                            if part.len() > super::NAME_BYTES_MAX {
                                return Err(TreeFault::PathTooLong);
                            }
                            pending.push_front(part.into());
                        }
                    }
                    if pending.len() > PENDING_COMPONENTS_MAX {
                        return Err(TreeFault::PathTooLong);
                    }
                    if target.starts_with(b"/") {
                        Self::ROOT
                    } else {
                        at
                    }
                }
            };
        }
        Ok(at)
    }

    /// What a name in a directory stands for.
    pub fn child(&self, parent: DirectoryId, name: &[u8]) -> Option<Node> {
        self.directory(parent).children.get(name).copied()
    }

    /// Makes a directory, or gives one that is there new attributes and keeps what is in it.
    pub fn set_directory(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<DirectoryId, TreeFault> {
        let old = self.child(parent, name);
        if let Some(Node::Directory(id)) = old {
            self.set_attributes(id, attributes)?;
            return Ok(id);
        }
        self.charge(DIRECTORY_COST_BYTES + attributes.xattr_bytes())?;
        let id = DirectoryId(self.directories.len() as u32);
        self.put(parent, name, Node::Directory(id))?;
        let opaque = old == Some(Node::Whiteout);
        let children = Children::new();
        self.directories.push(Directory {
            parent,
            attributes,
            opaque,
            children,
        });
        Ok(id)
    }

    /// Replaces the attributes of a directory.
    pub fn set_attributes(
        &mut self,
        directory: DirectoryId,
        attributes: Attributes,
    ) -> Result<(), TreeFault> {
        self.charge(attributes.xattr_bytes())?;
        self.directories[directory.0 as usize].attributes = attributes;
        Ok(())
    }

    /// Makes a directory hide what the layers below have in it.
    pub fn set_opaque(&mut self, directory: DirectoryId) {
        self.directories[directory.0 as usize].opaque = true;
    }

    /// Gives a name to an inode that was just written; what had the name before is gone.
    pub fn set_leaf(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        file_type: FileType,
        nid: u64,
        target: Option<&[u8]>,
    ) -> Result<(), TreeFault> {
        self.charge(LEAF_COST_BYTES + target.map_or(0, <[u8]>::len))?;
        let id = LeafId(self.leaves.len() as u32);
        self.leaves.push(Leaf {
            nid,
            links: 1,
            file_type,
            target: target.map(Into::into),
        });
        self.put(parent, name, Node::Leaf(id))
    }

    /// Removes a name of the layers below. A name that this layer itself has stays; when it is a
    /// directory, only its contents come from this layer.
    pub fn set_whiteout(&mut self, parent: DirectoryId, name: &[u8]) -> Result<(), TreeFault> {
        match self.child(parent, name) {
            None => self.put(parent, name, Node::Whiteout),
            Some(Node::Directory(id)) => {
                self.set_opaque(id);
                Ok(())
            }
            Some(Node::Leaf(_) | Node::Whiteout) => Ok(()),
        }
    }

    /// Finds what a hard link points to; symbolic links are not followed.
    pub fn link_target(&self, path: &[&[u8]]) -> Result<LeafId, TreeFault> {
        let Some((name, parents)) = path.split_last() else {
            return Err(TreeFault::LinkTargetIsDirectory);
        };
        let mut at = Self::ROOT;
        for parent in parents {
            at = match self.child(at, parent) {
                Some(Node::Directory(id)) => id,
                Some(Node::Leaf(_)) => return Err(TreeFault::LinkThroughSymlink),
                None | Some(Node::Whiteout) => return Err(TreeFault::LinkTargetMissing),
            };
        }
        match self.child(at, name) {
            Some(Node::Leaf(id)) => Ok(id),
            Some(Node::Directory(_)) => Err(TreeFault::LinkTargetIsDirectory),
            None | Some(Node::Whiteout) => Err(TreeFault::LinkTargetMissing),
        }
    }

    /// Gives an inode one more name; what had the name before is gone.
    pub fn set_link(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        target: LeafId,
    ) -> Result<(), TreeFault> {
        // Counted first: the name may be the inode's only one so far.
        self.leaves[target.0 as usize].links += 1;
        self.put(parent, name, Node::Leaf(target))
    }

    pub(super) fn directory(&self, id: DirectoryId) -> &Directory {
        &self.directories[id.0 as usize]
    }

    pub(super) fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id.0 as usize]
    }

    /// Inodes that have another number of names than the one they were written with.
    pub(super) fn relinked(&self) -> impl Iterator<Item = &Leaf> {
        self.leaves.iter().filter(|leaf| leaf.links > 1)
    }

    /// All directories, parents first, in an order that depends on names only.
    pub(super) fn directories_in_order(&self) -> Vec<DirectoryId> {
        let mut ordered = vec![Self::ROOT];
        let mut next = 0;
        while next < ordered.len() {
            let children = self.directory(ordered[next]).children.values();
            ordered.extend(children.filter_map(|node| match node {
                Node::Directory(id) => Some(*id),
                _ => None,
            }));
            next += 1;
        }
        ordered
    }

    /// Index of a directory, for tables beside the tree.
    pub(super) fn index(id: DirectoryId) -> usize {
        id.0 as usize
    }

    /// Index of an inode, for tables beside the tree.
    pub(super) fn leaf_index(id: LeafId) -> usize {
        id.0 as usize
    }

    /// How many inodes were ever written.
    pub(super) fn leaves_made(&self) -> usize {
        self.leaves.len()
    }

    /// How many directories were ever made.
    pub(super) fn directories_made(&self) -> usize {
        self.directories.len()
    }

    fn put(&mut self, parent: DirectoryId, name: &[u8], node: Node) -> Result<(), TreeFault> {
        // Replaced names count too: the memory of their inodes is not given back.
        self.charge(NAME_COST_BYTES + name.len())?;
        self.names += 1;
        if self.names > NAMES_MAX {
            return Err(TreeFault::TooManyNames);
        }
        let children = &mut self.directories[parent.0 as usize].children;
        if let Some(old) = children.insert(name.into(), node) {
            self.drop_node(old);
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), TreeFault> {
        self.bytes += bytes;
        if self.bytes > TREE_BYTES_MAX {
            Err(TreeFault::TooLarge)
        } else {
            Ok(())
        }
    }

    /// Takes back the links of an entry that lost its name, and of all in it.
    fn drop_node(&mut self, node: Node) {
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            match node {
                Node::Leaf(id) => self.leaves[id.0 as usize].links -= 1,
                Node::Directory(id) => {
                    let children = &mut self.directories[id.0 as usize].children;
                    pending.extend(std::mem::take(children).into_values());
                }
                Node::Whiteout => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_with(names: &[(&str, Option<&str>)]) -> Tree {
        let mut tree = Tree::new();
        for (name, target) in names {
            let file_type = if target.is_some() {
                FileType::Symlink
            } else {
                FileType::File
            };
            let target = target.map(str::as_bytes);
            tree.set_leaf(Tree::ROOT, name.as_bytes(), file_type, 0, target)
                .unwrap();
        }
        tree
    }

    fn at(tree: &mut Tree, path: &str) -> Result<DirectoryId, TreeFault> {
        let parts: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        tree.directory_at(&parts, &Attributes::default())
    }

    #[test]
    fn links_are_followed_inside_the_layer_only() {
        let links = [
            ("abs", Some("/usr/lib")),
            ("up", Some("../../../usr")),
            ("file", None),
        ];
        let mut tree = tree_with(&links);
        let lib = at(&mut tree, "usr/lib").unwrap();
        assert_eq!(at(&mut tree, "abs"), Ok(lib));
        assert_eq!(at(&mut tree, "up/lib"), Ok(lib));
        assert_eq!(
            at(&mut tree, "file/x"),
            Err(TreeFault::ParentIsNotDirectory)
        );
    }

    #[test]
    fn circles_of_links_end() {
        let mut tree = tree_with(&[("a", Some("b/x")), ("b", Some("a/y")), ("c", Some("c"))]);
        assert_eq!(at(&mut tree, "a"), Err(TreeFault::TooManySymlinks));
        assert_eq!(at(&mut tree, "c"), Err(TreeFault::TooManySymlinks));
    }

    #[test]
    fn a_replaced_name_gives_its_link_back_and_the_other_name_keeps_the_contents() {
        let mut tree = tree_with(&[("a", None)]);
        let leaf = tree.link_target(&[b"a"]).unwrap();
        tree.set_link(Tree::ROOT, b"b", leaf).unwrap();
        assert_eq!(tree.leaf(leaf).links, 2);
        tree.set_directory(Tree::ROOT, b"a", Attributes::default())
            .unwrap();
        assert_eq!(tree.leaf(leaf).links, 1);
        assert_eq!(tree.link_target(&[b"b"]), Ok(leaf));
        tree.set_link(Tree::ROOT, b"b", leaf).unwrap();
        assert_eq!(tree.leaf(leaf).links, 1);
    }

    #[test]
    fn a_file_in_place_of_a_directory_drops_all_in_it() {
        let mut tree = tree_with(&[("a", None)]);
        let leaf = tree.link_target(&[b"a"]).unwrap();
        let deep = at(&mut tree, "d/e").unwrap();
        tree.set_link(deep, b"f", leaf).unwrap();
        tree.set_leaf(Tree::ROOT, b"d", FileType::File, 0, None)
            .unwrap();
        assert_eq!(tree.leaf(leaf).links, 1);
        assert_eq!(tree.directories_in_order().len(), 1);
    }

    #[test]
    fn a_whiteout_and_a_directory_of_one_name_make_an_opaque_directory() {
        let mut tree = Tree::new();
        tree.set_whiteout(Tree::ROOT, b"first").unwrap();
        let first = at(&mut tree, "first").unwrap();
        let second = at(&mut tree, "second").unwrap();
        tree.set_whiteout(Tree::ROOT, b"second").unwrap();
        assert!(tree.directory(first).opaque && tree.directory(second).opaque);
        assert_eq!(
            tree.link_target(&[b"gone"]),
            Err(TreeFault::LinkTargetMissing)
        );
    }
}
