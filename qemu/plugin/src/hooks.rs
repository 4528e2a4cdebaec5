//! What is done when QEMU translates, runs, accesses memory, ends.
//!
//! Two lives. **Dormant**, until a program says that windows will follow: each instruction is looked at once, when it is
//! translated, and only markers call us, so that booting costs next to nothing. **Armed**: the first marker asks QEMU to
//! forget all translations; from then on every instruction calls [`runs`], and on a machine of several CPUs every access to
//! memory calls [`accesses`]. What happens outside windows is left again after two loads, but for lines: those must be
//! known from everybody's writes.
//!
//! Callbacks run on the virtual CPUs' own threads, all at once, and take no lock; translation takes one (`sites`).

use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use abi::marker::{self, Marker};

use crate::api::{self, Api, Block, Info, Instruction, MemInfo, PluginId};
use crate::count::Counter;
use crate::decode::{Kind, decode};
use crate::lines::{Access, Lines};
use crate::options::{Mode, Options};
use crate::report::{self, Began};
use crate::sites::Sites;
use crate::trace::Trace;
use crate::watched::Watched;

/// Everything there is. One machine a process.
struct Plugin {
    id: PluginId,
    api: Api,
    options: Options,
    /// A [`Life`].
    life: AtomicU8,
    /// 1: a window opened too early.
    late: AtomicU8,
    sites: Sites,
    counter: Counter,
    lines: Lines,
    trace: Trace,
}

/// How far we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Life {
    Dormant = 0,
    /// QEMU was asked to forget its translations, and has not done so yet.
    Waking = 1,
    Armed = 2,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

impl Plugin {
    fn is(&self, life: Life) -> bool {
        // Relaxed: the life changes while all CPUs stand still (`armed`), or in the CPU that asks.
        self.life.load(Ordering::Relaxed) == life as u8
    }

    /// Whether lines can be shared at all.
    fn watches_lines(&self) -> bool {
        self.options.mode == Mode::Count && self.counter.cpus() > 1
    }
}

/// Gets ready. The machine has not started.
pub(crate) fn install(id: PluginId, info: &Info, words: &[String]) -> Result<(), String> {
    if !(info.oldest_version..=info.newest_version).contains(&api::VERSION) {
        let (oldest, newest) = (info.oldest_version, info.newest_version);
        return Err(format!(
            "it speaks version {} of QEMU's interface, and this QEMU {oldest} to {newest}",
            api::VERSION
        ));
    }
    let cpus = usize::try_from(info.cpus_at_start.max(info.cpus_at_most)).unwrap_or(0);
    if cpus == 0 || cpus > abi::MAX_CPUS {
        return Err(format!("a machine of {cpus} CPUs"));
    }
    let plugin = Plugin {
        id,
        api: Api::find()?,
        options: Options::parse(words.iter().map(String::as_str))?,
        life: AtomicU8::new(Life::Dormant as u8),
        late: AtomicU8::new(0),
        sites: Sites::default(),
        counter: Counter::new(cpus),
        lines: Lines::new(),
        trace: Trace::default(),
    };
    // A wrong path is better known now than after an hour.
    File::create(&plugin.options.out).map_err(|why| format!("{}: {why}", plugin.options.out.display()))?;
    let plugin = PLUGIN.get_or_init(|| plugin);
    register(plugin);
    Ok(())
}

fn register(plugin: &Plugin) {
    // SAFETY: our own id, and functions that live as long as the process.
    unsafe { (plugin.api.on_translation)(plugin.id, translated) };
    // SAFETY: as above; the function wants no data.
    unsafe { (plugin.api.on_exit)(plugin.id, ends, std::ptr::null_mut()) };
}

/// QEMU has forgotten all translations and all callbacks; every CPU stands still.
extern "C" fn armed(_id: PluginId) {
    if let Some(plugin) = PLUGIN.get() {
        plugin.life.store(Life::Armed as u8, Ordering::Relaxed);
        register(plugin);
    }
}

/// A block has been translated, and has not run yet.
extern "C" fn translated(_id: PluginId, block: *mut Block) {
    let Some(plugin) = PLUGIN.get() else { return };
    let api = &plugin.api;
    // SAFETY: QEMU's block, valid during this call.
    let len = unsafe { (api.block_len)(block) };
    for index in 0..len {
        // SAFETY: as above, and `index` is below the block's length.
        let instruction = unsafe { (api.block_get)(block, index) };
        // SAFETY: QEMU's instruction, valid during this call.
        let bytes = unsafe { (api.bytes)(instruction) };
        // SAFETY: as above.
        let size = unsafe { (api.size)(instruction) };
        // SAFETY: as many bytes has the instruction, and QEMU keeps them during this call.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, size) };
        watch(plugin, instruction, decode(bytes));
    }
}

/// Asks QEMU to call us when `instruction`, which is being translated, runs.
fn watch(plugin: &Plugin, instruction: *mut Instruction, kind: Kind) {
    let api = &plugin.api;
    let on_run = |function, data| {
        // SAFETY: valid during this call; the function lives as long as the process.
        unsafe { (api.on_run)(instruction, function, api::NO_REGISTERS, data) };
    };
    if let Kind::Marker(marker) = kind {
        return on_run(marks, std::ptr::without_provenance_mut(marker.displacement() as usize));
    }
    if !plugin.is(Life::Armed) {
        return;
    }
    // SAFETY: valid during this call.
    let address = unsafe { (api.address)(instruction) };
    let Some(site) = plugin.sites.number(address) else { return };
    let interrupt = if plugin.options.interrupts.contains(&address) { Watched::INTERRUPT } else { 0 };
    let data = Watched::new(site, interrupt | flags(kind)).to_data();
    let function = match plugin.options.mode {
        Mode::Count => runs,
        Mode::Trace => traces,
    };
    on_run(function, data);
    if plugin.watches_lines() {
        // A locked instruction is one write, whether QEMU does it in one step or (on a machine that takes its CPUs in turn)
        // in two.
        let which: c_int = if kind == Kind::Locked { api::WRITES } else { api::READS_AND_WRITES };
        // SAFETY: valid during this call; the function lives as long as the process.
        unsafe { (api.on_access)(instruction, accesses, api::NO_REGISTERS, which, data) };
    }
}

/// What callbacks must know of an instruction.
fn flags(kind: Kind) -> u64 {
    match kind {
        Kind::Plain | Kind::Marker(_) => 0,
        Kind::Locked => Watched::LOCKED,
        Kind::Repeated => Watched::REPEATED,
        Kind::Returns => Watched::RETURN,
    }
}

/// A marker runs.
extern "C" fn marks(cpu: c_uint, displacement: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let Some(marker) = Marker::of_displacement(displacement.addr() as u32) else { return };
    if !plugin.is(Life::Armed) {
        if matches!(marker.kind, marker::Kind::Begin | marker::Kind::BeginAll) {
            plugin.late.store(1, Ordering::Relaxed);
        }
        wake(plugin);
    }
    plugin.counter.mark(cpu, marker);
}

/// Has QEMU translate everything anew, with us watching.
fn wake(plugin: &Plugin) {
    let (dormant, waking) = (Life::Dormant as u8, Life::Waking as u8);
    // Relaxed: who wins tells QEMU, and nothing else hangs on it.
    if plugin.life.compare_exchange(dormant, waking, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        // SAFETY: our own id; not called during the installation. QEMU calls `armed` once no CPU runs.
        unsafe { (plugin.api.reset)(plugin.id, armed) };
    }
}

/// An instruction begins.
extern "C" fn runs(cpu: c_uint, data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let what = Watched::of_data(data);
    let open = plugin.counter.begins(cpu, what);
    if open != 0 {
        plugin.counter.count(cpu, open, what);
    }
}

/// An instruction begins, and its place in the order is wanted.
extern "C" fn traces(cpu: c_uint, data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let what = Watched::of_data(data);
    if plugin.counter.begins(cpu, what) != 0 {
        plugin.trace.push(what.site());
    }
}

/// An access to memory has been done.
extern "C" fn accesses(cpu: c_uint, info: MemInfo, address: u64, data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let api = &plugin.api;
    // SAFETY: the two values that QEMU has just handed over belong together.
    let place = unsafe { (api.place)(info, address) };
    // SAFETY: valid during this call.
    if place.is_null() || unsafe { (api.place_is_device)(place) } {
        return;
    }
    // SAFETY: as above, and it is memory.
    let physical = unsafe { (api.place_address)(place) };
    // SAFETY: QEMU's own value.
    let size = 1 << unsafe { (api.access_size_shift)(info) };
    // SAFETY: as above.
    let access = if unsafe { (api.access_is_store)(info) } { Access::Write } else { Access::Read };
    let shared = plugin.lines.access(cpu, access, physical, size);
    if shared != 0 {
        plugin.counter.shared(cpu, plugin.counter.open(cpu), Watched::of_data(data), access, shared);
    }
}

/// QEMU ends.
extern "C" fn ends(_id: PluginId, _data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let began = if plugin.late.load(Ordering::Relaxed) == 0 { Began::InTime } else { Began::Late };
    let addresses = plugin.sites.addresses();
    let written = File::create(&plugin.options.out).and_then(|out| match plugin.options.mode {
        Mode::Count => report::counts(out, began, &plugin.counter, &addresses),
        Mode::Trace => report::trace(out, began, &plugin.trace.take(), &addresses),
    });
    if let Err(why) = written {
        eprintln!("the counter cannot write {}: {why}", plugin.options.out.display());
    }
}
