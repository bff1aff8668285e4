//! A disk in memory that keeps what a real one keeps through a power cut, and nothing else.
//!
//! One per node. [`SimulatedDisk::crash`] cuts the power and returns the disk as the next process finds it; handles of the
//! process before answer with errors from then on. It can be full, refuse to sync, or rot. Everything is decided by the
//! calls and the seeds given; the time that a call takes is the affair of whoever runs it.
//!
//! For crash-state enumeration, it records what is done to it ([`SimulatedDisk::record`]); a test replays any prefix of the
//! trace into a new disk ([`SimulatedDisk::replay`]) and crashes copies of that ([`SimulatedDisk::fork`]) in every way.

use super::disk_faults::{Cut, DiskFault, Wrongs};
use super::volume::{FileId, Operation, Tear, Volume};
use crate::trace;
use cluster::environment::{Access, BLOCK_BYTES, Disk, DiskUsage, File};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// See the module. Clones are handles of the same process to the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    machine: Arc<Mutex<Machine>>,
    process: u64,
}

struct Machine {
    volume: Volume,
    /// Decides what a power cut leaves.
    random: StdRng,
    /// Counts crashes; handles of an older process are dead.
    process: u64,
    locked_by: Option<u64>,
    capacity_bytes: Option<u64>,
    /// Whether direct writes end with a block of zeros. Where they do not, what lies behind them stays.
    has_direct_writes: bool,
    wrongs: Wrongs,
    trace: Option<Vec<Operation>>,
}

impl SimulatedDisk {
    /// An empty disk without a bound. `seed` decides what power cuts leave of unsynced operations, and whether its file
    /// system has direct writes: with even ones it has.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk::with(Volume::default(), seed, seed.is_multiple_of(2))
    }

    /// The disk after these operations, none of which is undone.
    pub fn replay(operations: &[Operation]) -> SimulatedDisk {
        let disk = SimulatedDisk::new(0);
        operations.iter().for_each(|operation| disk.apply(operation));
        disk
    }

    fn with(volume: Volume, seed: u64, has_direct_writes: bool) -> SimulatedDisk {
        let machine = Machine {
            volume,
            random: StdRng::seed_from_u64(seed),
            process: 0,
            locked_by: None,
            capacity_bytes: None,
            has_direct_writes,
            wrongs: Wrongs::default(),
            trace: None,
        };
        SimulatedDisk { machine: Arc::new(Mutex::new(machine)), process: 0 }
    }

    /// Cuts the power and returns the disk as the next process finds it: of what was not synced, nothing, everything or
    /// torn parts survive.
    pub fn crash(&self) -> SimulatedDisk {
        let unsynced = self.unsynced_bytes();
        let tear = Tear::draw(&mut self.machine().random, unsynced);
        self.crash_with(tear)
    }

    /// Cuts the power in a certain way.
    pub fn crash_with(&self, tear: Tear) -> SimulatedDisk {
        self.machine().volume.crash(tear);
        self.kill()
    }

    /// Kills the process alone: the next one finds what was written, and what was not synced still is not.
    pub fn kill(&self) -> SimulatedDisk {
        let mut machine = self.machine();
        machine.process += 1;
        machine.locked_by = None;
        drop(machine);
        self.reopen()
    }

    /// A handle for the process that runs now: the one after the last crash.
    pub fn reopen(&self) -> SimulatedDisk {
        SimulatedDisk { machine: Arc::clone(&self.machine), process: self.machine().process }
    }

    /// An independent copy, unsynced operations included.
    pub fn fork(&self) -> SimulatedDisk {
        let machine = self.machine();
        SimulatedDisk::with(machine.volume.clone(), 0, machine.has_direct_writes)
    }

    /// Does one more recorded operation.
    pub fn apply(&self, operation: &Operation) {
        self.machine().volume.apply(operation);
    }

    /// Begins to record what is done.
    pub fn record(&self) {
        self.machine().trace = Some(Vec::new());
    }

    /// What was done since [`SimulatedDisk::record`]; recording ends.
    pub fn recorded(&self) -> Vec<Operation> {
        self.machine().trace.take().unwrap_or_default()
    }

    /// Puts a note into the trace.
    pub fn note(&self, note: u64) {
        if let Some(trace) = &mut self.machine().trace {
            trace.push(Operation::Note(note));
        }
    }

    /// How many operations are not synced.
    pub fn unsynced_count(&self) -> usize {
        self.machine().volume.unsynced().len()
    }

    /// Bytes of all writes that are not synced.
    pub fn unsynced_bytes(&self) -> u64 {
        let machine = self.machine();
        let sizes = machine.volume.unsynced().iter().map(|operation| match operation {
            Operation::Write(_, _, bytes) => bytes.len() as u64,
            _ => 0,
        });
        sizes.sum()
    }

    /// Bounds the bytes of all files; `None` lifts the bound. Writes that would exceed it fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine().capacity_bytes = bytes;
    }

    /// Makes the next operations of a kind fail.
    pub fn fail(&self, fault: DiskFault) {
        self.machine().wrongs.add(fault);
    }

    /// Whether an operation was made to fail since this was last asked, no longer ago than so long.
    pub fn take_failed(&self, within: Duration) -> bool {
        self.machine().wrongs.take_failed(within)
    }

    /// Whatever was wrong is no longer.
    pub fn mend(&self) {
        let mut machine = self.machine();
        machine.wrongs.clear();
        machine.capacity_bytes = None;
    }

    /// Cuts the power within the next operation of a kind; `then` is called at that moment and cuts the rest of the machine off.
    pub fn cut_power_at(&self, cut: Cut, then: Box<dyn FnOnce() + Send>) {
        self.machine().wrongs.cut_at(cut, then);
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.machine().volume.used_bytes()
    }

    /// Inverts a bit of a file. Panics if there is no such file.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let mut machine = self.machine();
        let file = machine.volume.file(path).expect("a bit of an existing file is flipped");
        machine.volume.flip(file, bit);
    }

    /// The names of all files and their bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let machine = self.machine();
        let names = machine.volume.names();
        names.map(|(path, file)| (path.to_owned(), machine.volume.bytes(file).unwrap_or_default().to_vec())).collect()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Cuts the power within an operation, if it is to be: the process is dead from here on.
    fn cut_if_due(&self, machine: MutexGuard<'_, Machine>, operation: Cut) -> io::Result<()> {
        let mut machine = machine;
        let Some(then) = machine.wrongs.takes_cut(operation) else { return Ok(()) };
        machine.process += 1;
        machine.locked_by = None;
        drop(machine);
        then();
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "simulated: the power went"))
    }

    /// The machine, if this handle's process still lives.
    fn alive(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let machine = self.machine();
        if machine.process == self.process {
            return Ok(machine);
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the process that opened this disk is dead"))
    }

    fn open_file(&self, file: FileId, access: Access) -> Box<dyn File> {
        Box::new(SimulatedFile { disk: self.clone(), file, access })
    }
}

impl Machine {
    fn perform(&mut self, operation: Operation) {
        self.volume.apply(&operation);
        if let Some(trace) = &mut self.trace {
            trace.push(operation);
        }
    }

    fn check_room(&self, file: FileId, length: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let now = self.volume.bytes(file).map_or(0, |bytes| bytes.len() as u64);
        if length > now && self.volume.used_bytes() + length - now > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.alive()?;
        let mut missing: Vec<&Path> = path.ancestors().filter(|path| !machine.volume.has_directory(path)).collect();
        while let Some(path) = missing.pop() {
            machine.perform(Operation::CreateDirectory(path.to_owned()));
        }
        Ok(())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let file = self.alive()?.volume.file(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.open_file(file, access))
    }

    fn create(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut machine = self.alive()?;
        if machine.volume.file(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !machine.volume.has_directory(path.parent().unwrap_or(Path::new(""))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = machine.volume.next_file();
        machine.perform(Operation::Create(path.to_owned(), file));
        Ok(self.open_file(file, access))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let machine = self.alive()?;
        let names = machine.volume.names().filter(|(path, _)| path.parent() == Some(directory));
        Ok(names.filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.alive()?;
        let file = machine.volume.file(from).ok_or(io::ErrorKind::NotFound)?;
        machine.perform(Operation::Rename(from.to_owned(), to.to_owned(), file));
        self.cut_if_due(machine, Cut::Rename)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.alive()?;
        machine.volume.file(path).ok_or(io::ErrorKind::NotFound)?;
        machine.perform(Operation::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut machine = self.alive()?;
        if !machine.volume.has_directory(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        machine.wrongs.sync()?;
        trace::bytes("sync", directory.to_string_lossy().as_bytes());
        machine.perform(Operation::SyncDirectory(directory.to_owned()));
        Ok(())
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage { used_bytes: self.alive()?.volume.used_bytes() })
    }

    fn lock(&self) -> io::Result<()> {
        let mut machine = self.alive()?;
        if machine.locked_by.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        machine.locked_by = Some(self.process);
        Ok(())
    }
}

/// An open file; it stays what it is when its name goes.
struct SimulatedFile {
    disk: SimulatedDisk,
    file: FileId,
    access: Access,
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if let Ok(mut machine) = self.disk.alive() {
            machine.volume.forget_if_nameless(self.file);
        }
    }
}

impl SimulatedFile {
    fn length(&self, machine: &Machine) -> u64 {
        machine.volume.bytes(self.file).map_or(0, |bytes| bytes.len() as u64)
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length(&*self.disk.alive()?))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut machine = self.disk.alive()?;
        machine.wrongs.read()?;
        let bytes = machine.volume.bytes(self.file).unwrap_or_default();
        let start = usize::try_from(position).map_err(io::Error::other)?;
        let found = start.checked_add(buffer.len()).and_then(|end| bytes.get(start..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut machine = self.disk.alive()?;
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        assert!(self.access == Access::Cached || position <= self.length(&machine), "a log is written without holes");
        let is_direct = machine.has_direct_writes && self.access == Access::Direct;
        if is_direct && self.length(&machine).is_multiple_of(BLOCK_BYTES as u64) {
            let end = position + bytes.len() as u64;
            let zeros = end.next_multiple_of(BLOCK_BYTES as u64) - end;
            bytes.resize(bytes.len() + usize::try_from(zeros).map_err(io::Error::other)?, 0);
        }
        machine.check_room(self.file, position + bytes.len() as u64)?;
        let failed = machine.wrongs.write();
        if failed.is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        trace::bytes("write", &[position, xxh3_64(&bytes)].map(u64::to_le_bytes).concat());
        machine.perform(Operation::Write(self.file, position, bytes.into()));
        failed?;
        self.disk.cut_if_due(machine, Cut::Write)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut machine = self.disk.alive()?;
        machine.check_room(self.file, length)?;
        machine.perform(Operation::SetLength(self.file, length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.disk.alive()?;
        if let Err(error) = machine.wrongs.sync() {
            machine.volume.lose_unsynced(self.file);
            return Err(error);
        }
        if machine.wrongs.is_cut_at(Cut::Sync) {
            return self.disk.cut_if_due(machine, Cut::Sync);
        }
        trace::bytes("sync", &self.file.0.to_le_bytes());
        machine.perform(Operation::Sync(self.file));
        Ok(())
    }

    fn reread(&self) -> io::Result<()> {
        self.sync()?;
        self.disk.alive()?.volume.forget_lost(self.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::SECTOR_BYTES;
    use super::*;

    fn write(file: &dyn File, position: u64, bytes: &[u8]) -> io::Result<()> {
        let (one, two) = bytes.split_at(bytes.len() / 2);
        file.write_at(&mut [IoSlice::new(one), IoSlice::new(two)], position)
    }

    fn contents(disk: &SimulatedDisk) -> Vec<(String, Vec<u8>)> {
        disk.files().into_iter().map(|(path, bytes)| (path.display().to_string(), bytes)).collect()
    }

    /// A disk with a synced file "d/a" of 2000 ones.
    fn disk() -> (SimulatedDisk, Box<dyn File>) {
        let disk = SimulatedDisk::new(1);
        disk.create_directory(Path::new("d")).unwrap();
        disk.sync_directory(Path::new("")).unwrap();
        let file = disk.create(Path::new("d/a"), Access::Cached).unwrap();
        write(&*file, 0, &[1; 2000]).unwrap();
        file.sync().unwrap();
        disk.sync_directory(Path::new("d")).unwrap();
        (disk, file)
    }

    #[test]
    fn unsynced_bytes_are_read_but_do_not_survive_a_power_cut() {
        let (disk, file) = disk();
        write(&*file, 1990, &[2; 20]).unwrap();
        file.set_len(2005).unwrap();
        let mut read = [0; 15];
        file.read_at(&mut read, 1990).unwrap();
        assert_eq!(read, [2; 15]);
        assert_eq!(file.read_at(&mut read, 1991).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let killed = disk.fork().kill();
        assert_eq!(killed.files()[0].1.len(), 2005);
        assert_eq!(contents(&killed.crash_with(Tear::Nothing)), [("d/a".into(), vec![1; 2000])]);
        let cut = disk.crash_with(Tear::Nothing);
        assert_eq!(contents(&cut), [("d/a".into(), vec![1; 2000])]);
    }

    #[test]
    fn unsynced_names_are_undone() {
        let (disk, _file) = disk();
        disk.create(Path::new("d/b"), Access::Cached).unwrap();
        disk.rename(Path::new("d/a"), Path::new("d/c")).unwrap();
        let names = |disk: SimulatedDisk| contents(&disk).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(disk.fork()), ["d/b", "d/c"]);
        assert_eq!(names(disk.fork().crash_with(Tear::Nothing)), ["d/a"]);
        assert_eq!(names(disk.fork().crash_with(Tear::Subset(0b10))), ["d/c"]);
        disk.sync_directory(Path::new("d")).unwrap();
        assert_eq!(names(disk.crash_with(Tear::Nothing)), ["d/b", "d/c"]);
    }

    #[test]
    fn a_directory_that_was_not_synced_takes_its_files_with_it() {
        let disk = SimulatedDisk::new(1);
        disk.create_directory(Path::new("d")).unwrap();
        disk.create(Path::new("d/a"), Access::Cached).unwrap().sync().unwrap();
        disk.sync_directory(Path::new("d")).unwrap();
        assert_eq!(contents(&disk.crash_with(Tear::Nothing)), []);
    }

    #[test]
    fn a_torn_write_leaves_sectors_of_before_and_after() {
        let (disk, file) = disk();
        write(&*file, 100, &[2; 1900]).unwrap();
        let mut partly = 0;
        for seed in 0..20 {
            let torn = disk.fork().crash_with(Tear::Shred { seed, grain: SECTOR_BYTES, garbage: false });
            let bytes = &torn.files()[0].1;
            assert_eq!(bytes[..100], [1; 100]);
            let sectors = bytes[100..].chunk_by(|one, next| one == next);
            partly += usize::from(sectors.count() > 1);
            assert!(bytes[512..].chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        }
        assert!(partly > 5, "{partly} of 20 writes were torn");
        let cut = disk.crash_with(Tear::Prefix(7)).files().remove(0).1;
        assert_eq!((cut[106], cut[107]), (2, 1));
    }

    #[test]
    fn a_power_cut_within_an_append_leaves_nothing_of_the_next_one() {
        let (disk, file) = disk();
        write(&*file, 2000, &[2; 10]).unwrap();
        write(&*file, 2010, &[3; 10]).unwrap();
        assert_eq!(disk.crash_with(Tear::Prefix(7)).files()[0].1.len(), 2007);
    }

    #[test]
    fn the_same_seed_tears_the_same() {
        let torn = || {
            let (mut disk, _file) = disk();
            let mut states = Vec::new();
            for round in 0..10 {
                write(&*disk.open(Path::new("d/a"), Access::Cached).unwrap(), 0, &[round; 2000]).unwrap();
                disk = disk.crash();
                states.push(contents(&disk));
            }
            states
        };
        assert_eq!(torn(), torn());
    }

    #[test]
    fn a_failed_sync_loses_the_writes_for_good() {
        let (disk, file) = disk();
        write(&*file, 0, &[2; 10]).unwrap();
        disk.fail(DiskFault::Syncs(1));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(contents(&disk.crash_with(Tear::Everything)), [("d/a".into(), vec![1; 2000])]);
    }

    #[test]
    fn a_full_disk_refuses_growth_alone() {
        let (disk, file) = disk();
        disk.set_capacity(Some(2100));
        assert_eq!(write(&*file, 2000, &[1; 101]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        write(&*file, 2000, &[1; 100]).unwrap();
        disk.set_capacity(Some(0));
        write(&*file, 0, &[3; 2100]).unwrap();
        disk.remove(Path::new("d/a")).unwrap();
        assert_eq!(disk.usage().unwrap().used_bytes, 0);
    }

    #[test]
    fn handles_of_a_dead_process_do_nothing() {
        let (disk, file) = disk();
        disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let next = disk.crash_with(Tear::Everything);
        assert!(write(&*file, 0, &[2]).is_err());
        assert!(disk.open(Path::new("d/a"), Access::Cached).is_err());
        next.lock().unwrap();
        assert!(disk.reopen().open(Path::new("d/a"), Access::Cached).is_ok());
    }

    #[test]
    fn a_removed_file_can_be_read_while_it_is_open() {
        let (disk, file) = disk();
        disk.remove(Path::new("d/a")).unwrap();
        disk.sync_directory(Path::new("d")).unwrap();
        assert_eq!(file.len().unwrap(), 2000);
    }

    #[test]
    fn a_replayed_trace_leads_to_the_same_disk() {
        let disk = SimulatedDisk::new(1);
        disk.record();
        let file = disk.create(Path::new("a"), Access::Cached).unwrap();
        write(&*file, 3, b"abc").unwrap();
        file.sync().unwrap();
        disk.rename(Path::new("a"), Path::new("b")).unwrap();
        let replayed = SimulatedDisk::replay(&disk.recorded());
        assert_eq!(contents(&replayed), contents(&disk));
        assert_eq!(replayed.unsynced_count(), disk.unsynced_count());
    }
}
