//! Disks that go wrong: one that forgets at a crash what was not synced, and one that fails at its n-th
//! operation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bertstream::durable::{Claim, Disk, Kind, NewFile};
use bertstream::rng::SampleRng;

/// A disk in memory that remembers every change, and of each whether a sync made it last.
///
/// What a crash leaves is any outcome that POSIX allows: of the changes to the entries of a directory since its last
/// sync any part, whatever the order they came in; of what was written to a file since its last sync any
/// beginning, with zeros behind it or not.
#[derive(Clone, Debug, Default)]
pub struct Simulated(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    nodes: Vec<Node>,
    changes: Vec<Change>,
}

impl Default for World {
    fn default() -> Self {
        Self { nodes: vec![Node::Directory(BTreeMap::new())], changes: vec![] }
    }
}

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Link(PathBuf),
    Directory(BTreeMap<PathBuf, usize>),
}

#[derive(Clone, Debug)]
enum Change {
    /// File, and its length since.
    Written(usize, usize),
    Synced(usize),
    /// Directory, the name that went, and the name that came with what it names. One and indivisible.
    Entry(usize, Option<PathBuf>, Option<(PathBuf, usize)>),
}

/// What of the changes that no sync made last did last.
#[derive(Clone, Copy, Debug)]
pub enum Lasting {
    /// The entries whose bits are set, counted from the first; this share of what was written, in quarters; and
    /// whether lost bytes became zeros.
    These(u64, usize, bool),
    /// By lot.
    Seeded(u64),
}

impl Simulated {
    /// With this directory in it, for good.
    pub fn with(directory: &Path) -> Self {
        let disk = Self::default();
        let mut path = PathBuf::new();
        for name in names(directory) {
            disk.create_dir(&path.join(name)).unwrap();
            disk.sync_dir(&path).unwrap();
            path.push(name);
        }
        disk
    }

    /// How many changes there were: the place of a crash that happens now.
    pub fn now(&self) -> usize {
        self.world().changes.len()
    }

    /// Changes to entries before `at` that no sync made last.
    pub fn unsynced_entries(&self, at: usize) -> usize {
        let mut pending = BTreeMap::<usize, usize>::new();
        for change in &self.world().changes[..at] {
            match change {
                Change::Entry(directory, ..) => *pending.entry(*directory).or_default() += 1,
                Change::Synced(node) => drop(pending.remove(node)),
                Change::Written(..) => {}
            }
        }
        pending.values().sum()
    }

    /// What is found after a crash behind the first `at` changes.
    pub fn crashed(&self, at: usize, lasting: Lasting) -> Self {
        let world = self.world();
        let mut rng = SampleRng::new(
            bertstream::rng::Domain::Survey,
            at as u64,
            &[match lasting {
                Lasting::Seeded(seed) => seed,
                Lasting::These(..) => 0,
            }],
        );
        let mut durable = vec![0; world.nodes.len()];
        let mut written = vec![0; world.nodes.len()];
        let mut entries = vec![BTreeMap::new(); world.nodes.len()];
        let mut pending = vec![Vec::new(); world.nodes.len()];
        for change in &world.changes[..at] {
            match change {
                Change::Written(file, length) => written[*file] = *length,
                Change::Entry(directory, gone, come) => pending[*directory].push((gone, come)),
                Change::Synced(node) => {
                    durable[*node] = written[*node];
                    pending[*node].drain(..).for_each(|change| apply(&mut entries[*node], change));
                }
            }
        }
        let mut bit = 0;
        for (entries, pending) in entries.iter_mut().zip(pending) {
            for change in pending {
                let lasts = match lasting {
                    Lasting::These(bits, ..) => bits >> bit & 1 == 1,
                    Lasting::Seeded(_) => rng.below(2) == 1,
                };
                bit += 1;
                if lasts {
                    apply(entries, change);
                }
            }
        }
        let nodes = world.nodes.iter().zip(entries).enumerate().map(|(number, (node, entries))| match node {
            Node::Directory(_) => Node::Directory(entries),
            Node::Link(target) => Node::Link(target.clone()),
            Node::File(content) => {
                let lost = written[number] - durable[number];
                let (kept, zeros) = match lasting {
                    Lasting::These(_, quarters, zeros) => (lost * quarters / 4, zeros),
                    Lasting::Seeded(_) => (rng.below(lost as u64 + 1) as usize, rng.below(2) == 1),
                };
                let mut content = content[..durable[number] + kept].to_vec();
                if zeros {
                    content.resize(written[number], 0);
                }
                Node::File(content)
            }
        });
        let nodes = nodes.collect();
        Self(Arc::new(Mutex::new(World { nodes, changes: vec![] })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

type EntryChange<'c> = (&'c Option<PathBuf>, &'c Option<(PathBuf, usize)>);

fn apply(entries: &mut BTreeMap<PathBuf, usize>, (gone, come): EntryChange<'_>) {
    if let Some(name) = gone {
        entries.remove(name);
    }
    if let Some((name, node)) = come {
        entries.insert(name.clone(), *node);
    }
}

impl World {
    /// The node at a path; symbolic links are not followed.
    fn find(&self, path: &Path) -> io::Result<usize> {
        names(path).try_fold(0, |at, name| match &self.nodes[at] {
            Node::Directory(entries) => entries.get(Path::new(name)).copied().ok_or(not_found()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    fn entries(&mut self, directory: usize) -> io::Result<&mut BTreeMap<PathBuf, usize>> {
        match &mut self.nodes[directory] {
            Node::Directory(entries) => Ok(entries),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (directory, name) = self.place(path)?;
        if self.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.change(directory, None, Some((name, made)))?;
        Ok(made)
    }

    fn place(&self, path: &Path) -> io::Result<(usize, PathBuf)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name.into()))
    }

    fn change(
        &mut self,
        directory: usize,
        gone: Option<PathBuf>,
        come: Option<(PathBuf, usize)>,
    ) -> io::Result<()> {
        apply(self.entries(directory)?, (&gone, &come));
        self.changes.push(Change::Entry(directory, gone, come));
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let ((directory, old), (same, new)) = (self.place(from)?, self.place(to)?);
        assert_eq!(directory, same, "everything is renamed within its directory");
        self.change(directory, Some(old), Some((new, node)))
    }
}

/// The components of a path; relative ones start at the root too.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.iter().filter(|name| *name != "/" && *name != ".")
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Simulated {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let node = self.world().make(path, Node::File(vec![]))?;
        Ok(Box::new(Open { disk: self.clone(), node }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<Claim> {
        self.world().make(path, Node::Directory(BTreeMap::new()))?;
        Ok(Claim::default())
    }

    fn link(&self, path: &Path, target: &Path) -> io::Result<()> {
        self.world().make(path, Node::Link(target.to_owned())).map(drop)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.sync_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let node = world.find(path)?;
        world.changes.push(Change::Synced(node));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world().rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        match world.find(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => world.rename(from, to),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let node = world.find(path)?;
        if matches!(world.nodes[node], Node::Directory(_)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (directory, name) = world.place(path)?;
        world.change(directory, Some(name), None)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let node = world.find(path)?;
        if !world.entries(node)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (directory, name) = world.place(path)?;
        world.change(directory, Some(name), None)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let mut world = self.world();
        let node = world.find(path)?;
        let entries = world.entries(node)?.clone();
        Ok(entries.into_iter().map(|(name, node)| (name, kind(&world.nodes[node]))).collect())
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let world = self.world();
        Ok(kind(&world.nodes[world.find(path)?]))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let world = self.world();
        match &world.nodes[world.find(path)?] {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let world = self.world();
        match &world.nodes[world.find(path)?] {
            Node::File(content) => Ok(content.iter().copied().take(most as usize).collect()),
            Node::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
            Node::Link(_) => Err(not_found()),
        }
    }
}

fn kind(node: &Node) -> Kind {
    match node {
        Node::File(_) => Kind::File,
        Node::Link(_) => Kind::Link,
        Node::Directory(_) => Kind::Directory,
    }
}

struct Open {
    disk: Simulated,
    node: usize,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut world = self.disk.world();
        let Node::File(content) = &mut world.nodes[self.node] else { unreachable!("opened as a file") };
        content.extend_from_slice(bytes);
        let length = content.len();
        world.changes.push(Change::Written(self.node, length));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.world().changes.push(Change::Synced(self.node));
        Ok(())
    }
}

/// A disk on which one operation, and if asked for every one after it, fails.
#[derive(Clone, Debug)]
pub struct Faulty {
    disk: Simulated,
    fault: Fault,
    seen: Arc<Mutex<Seen>>,
}

/// What fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which of the operations of this kind, from 0.
    pub at: usize,
    /// Whether only syncs are counted and fail; else everything that changes the disk, except removals, which a full
    /// disk allows.
    pub syncs: bool,
    /// Whether all that come later fail too.
    pub lasting: bool,
    pub kind: io::ErrorKind,
}

#[derive(Debug, Default)]
struct Seen {
    operations: usize,
    failed_syncs: Vec<PathBuf>,
    retried: bool,
}

impl Faulty {
    pub fn new(disk: Simulated, fault: Fault) -> Self {
        Self { disk, fault, seen: Arc::default() }
    }

    /// Operations of the kind that fails so far.
    pub fn operations(&self) -> usize {
        self.seen.lock().unwrap().operations
    }

    /// Whether a file was synced once more after that had failed.
    pub fn retried(&self) -> bool {
        self.seen.lock().unwrap().retried
    }

    fn changes(&self) -> io::Result<()> {
        if self.fault.syncs { Ok(()) } else { self.counted() }
    }

    fn counted(&self) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        let now = seen.operations;
        seen.operations += 1;
        match now == self.fault.at || self.fault.lasting && now > self.fault.at {
            true => Err(self.fault.kind.into()),
            false => Ok(()),
        }
    }

    /// Of a file; directories live on, and are synced again for their next entries.
    fn syncs(&self, file: &Path) -> io::Result<()> {
        let result = self.counted();
        let mut seen = self.seen.lock().unwrap();
        seen.retried |= seen.failed_syncs.iter().any(|failed| failed == file);
        if result.is_err() {
            seen.failed_syncs.push(file.to_owned());
        }
        result
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.changes()?;
        let file = self.disk.create(path)?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file, path: path.to_owned() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<Claim> {
        self.changes().and_then(|()| self.disk.create_dir(path))
    }

    fn link(&self, path: &Path, target: &Path) -> io::Result<()> {
        self.changes().and_then(|()| self.disk.link(path, target))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.syncs(path).and_then(|()| self.disk.sync_file(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.counted().and_then(|()| self.disk.sync_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.changes().and_then(|()| self.disk.rename(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.changes().and_then(|()| self.disk.rename_new(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        self.disk.entries(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.disk.kind(path)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.read_link(path)
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.disk.read(path, most)
    }
}

struct FaultyFile {
    disk: Faulty,
    file: Box<dyn NewFile>,
    path: PathBuf,
}

impl Write for FaultyFile {
    /// A full disk takes the half of what is written last.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.changes() {
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.syncs(&self.path)?;
        self.file.sync()
    }
}
