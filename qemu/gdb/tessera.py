"""What gdb needs to know to show Tessera's memory manager: printers for its types, and the `tessera` commands.

Everything is read from the stopped machine through the kernel's own debug information, by the names of types and fields, so
that a field that moves is found where it went, and one that is renamed gives an error and not a wrong answer. Constants of
the encoding (marks, slots, entries, the tree's root) are repeated here, each with the file that defines it.
"""

import re

import gdb

PAGE = 4096
# kernel/src/arch/paging.rs: where all physical memory is mapped.
WINDOW = 0xFFFF_8000_0000_0000
# kernel/mm/src/paging/entry.rs
ENTRY_ADDRESS = 0x000F_FFFF_FFFF_F000
ENTRY_BITS = [
    (1 << 0, "present"),
    (1 << 1, "write"),
    (1 << 2, "user"),
    (1 << 3, "write-through"),
    (1 << 4, "uncached"),
    (1 << 5, "accessed"),
    (1 << 6, "dirty"),
    (1 << 7, "large"),
    (1 << 8, "global"),
    (1 << 9, "parked"),
    (1 << 63, "no-execute"),
]
ENTRY_PRESENT, ENTRY_LARGE, ENTRY_PARKED = 1 << 0, 1 << 7, 1 << 9
# kernel/sync/src/vma_lock/mark.rs
MARK_SEQUENCE_BITS = 48
# kernel/sync/src/vma_lock/slot.rs
SLOT_BUSY, SLOT_COUNT_SHIFT, SLOT_COUNT_MASK = 1, 1, 0x7FF
# kernel/mm/src/tree/node.rs
TREE_UNUSED, TREE_LEVELS_MASK = 2**64 - 1, 63
# kernel/mm/src/vma.rs
RIGHTS = [(1, "r"), (2, "w"), (4, "x")]
VMA_FLAGS = [(1 << 0, "noreserve"), (1 << 1, "random"), (1 << 2, "sequential"), (1 << 3, "hugepage"), (1 << 4, "nohugepage")]


# --- reading values ---------------------------------------------------------------------------------------------------


def word_at(address):
    """The eight bytes at an address of the kernel."""
    memory = gdb.selected_inferior().read_memory(address & (2**64 - 1), 8)
    return int.from_bytes(memory.tobytes(), "little")


def type_named(name):
    return gdb.lookup_type(name)


def at(address, type_name):
    """The object of a type at an address."""
    return gdb.Value(address).cast(type_named(type_name).pointer()).dereference()


def number(value):
    """The number inside wrappers: atomics, cells, new types. Signed nowhere."""
    value = bare(value)
    size = value.type.sizeof
    return int(value) & (2 ** (8 * size) - 1)


def bare(value):
    """The one field with a size, down to something that is no structure."""
    while value.type.strip_typedefs().code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        fields = [field for field in value.type.fields() if hasattr(field, "bitpos") and field.type.sizeof]
        if len(fields) != 1:
            raise gdb.GdbError(f"{value.type} is no wrapper of one value")
        value = value[fields[0]]
    return value


def address_of(value):
    return int(value.address) & (2**64 - 1)


def raw_pointer(value):
    """A pointer inside cells, options and `NonNull`s: the word that they all are. 0 is none."""
    if value.type.sizeof != 8:
        raise gdb.GdbError(f"{value.type} is no pointer")
    return word_at(address_of(value))


def static(name):
    """Address and type of a static of the kernel. Not its value: gdb would read all of it, on a machine that may not have
    loaded it yet."""
    symbol = gdb.lookup_static_symbol(name) or gdb.lookup_global_symbol(name)
    where = re.search(r"at address (0x[0-9a-f]+)", gdb.execute(f"info address {name}", to_string=True) if symbol else "")
    if where is None:
        raise gdb.GdbError(f"the kernel has no `{name}`: is this its ELF file?")
    return int(where[1], 16), symbol.type


def static_value(name):
    address, kind = static(name)
    return gdb.Value(address).cast(kind.pointer()).dereference()


def generic(name):
    """The type with this name before its parameters: the machine's own `mm::space::AddressSpace<..>`."""
    return type_named(f"{name}<kernel::machine::Machine>")


def slice_of(value, type_name):
    """The elements of a boxed slice."""
    first, count = int(value["data_ptr"]), int(value["length"])
    kind = type_named(type_name)
    return [gdb.Value(first + index * kind.sizeof).cast(kind.pointer()).dereference() for index in range(count)]


# --- the machine's state ----------------------------------------------------------------------------------------------


def memory():
    """The kernel's `mm::Memory`, or an error before it is made."""
    address, once = static("kernel::memory::MEMORY")
    kind = generic("mm::memory::Memory")
    offset = next(field.bitpos // 8 for field in once.fields() if field.name == "data")
    try:
        found = gdb.Value(address + offset).cast(kind.pointer()).dereference()
        made = raw_pointer(found["frames"]) != 0
    except gdb.MemoryError:
        made = False
    if not made:
        raise gdb.GdbError("the kernel has no memory manager yet: let it boot further")
    return found


def cpu_count():
    return number(static_value("kernel::arch::percpu::COUNT"))


def cpus():
    """The kernel's structure of each CPU that takes part."""
    array = static_value("kernel::arch::percpu::CPUS")
    return [array[index] for index in range(cpu_count())]


def running_thread(cpu):
    """The kernel's thread on a CPU, or None before it has one."""
    address = number(cpu["current_thread"])
    return at(address, "kernel::sched::thread::Thread") if address else None


def space_of(thread):
    address = raw_pointer(thread["space"]) if thread is not None else 0
    if not address:
        return None
    return gdb.Value(address).cast(generic("mm::space::AddressSpace").pointer()).dereference()


def selected_cpu():
    """The number of the CPU that gdb looks at: QEMU's threads are its CPUs, in their order."""
    thread = gdb.selected_thread()
    return (thread.num if thread else 1) - 1


def running_spaces():
    """Each address space that a CPU runs now, with these CPUs."""
    found = {}
    for index, cpu in enumerate(cpus()):
        space = space_of(running_thread(cpu))
        if space is not None:
            found.setdefault(address_of(space), (space, []))[1].append(index)
    return list(found.values())


def space_argument(text):
    """The address space that a command's argument names, or the selected CPU's, or the only one that runs."""
    if text:
        value = gdb.parse_and_eval(text)
        if value.type.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_REF):
            value = value.referenced_value()
        if value.type.code == gdb.TYPE_CODE_INT:
            value = gdb.Value(int(value)).cast(generic("mm::space::AddressSpace").pointer()).dereference()
        if not str(value.type.strip_typedefs().name).startswith("mm::space::AddressSpace<"):
            raise gdb.GdbError(f"`{text}` is a {value.type}, not an address space")
        return value
    selected = selected_cpu()
    if selected < cpu_count():
        space = space_of(running_thread(cpus()[selected]))
        if space is not None:
            return space
    running = running_spaces()
    if not running:
        raise gdb.GdbError("no CPU runs a program now: name an address space")
    return running[0][0]


def cells():
    locks = memory()["locks"]["cells"]["cells"]
    return slice_of(locks, padded("sync::vma_lock::cell::Cell<kernel::machine::Machine>"))


def padded(name):
    return f"sync::primitive::Padded<{name}>"


def slots():
    boxed = memory()["locks"]["slots"]["slots"]
    return slice_of(boxed, padded("sync::vma_lock::slot::Slot"))


# --- words into text --------------------------------------------------------------------------------------------------


def rights_text(bits):
    return "".join(letter if bits & bit else "-" for bit, letter in RIGHTS)


def entry_text(entry):
    if entry == 0:
        return "empty"
    names = [name for bit, name in ENTRY_BITS if entry & bit]
    left = entry & ~ENTRY_ADDRESS & ~sum(bit for bit, _ in ENTRY_BITS)
    if left:
        names.append(f"bits {left:#x}")
    return f"{entry & ENTRY_ADDRESS:#x} {' '.join(names)}"


def slot_text(word):
    if not word & SLOT_BUSY:
        return "idle"
    count = word >> SLOT_COUNT_SHIFT & SLOT_COUNT_MASK
    return f"busy at {word & ~(PAGE - 1):#x}, fault {count}"


def mark_parts(word):
    return word >> MARK_SEQUENCE_BITS, word & ((1 << MARK_SEQUENCE_BITS) - 1)


def mark_text(word):
    """The mark of a VMA: whether it locks."""
    if word == 0:
        return "unlocked"
    cell, sequence = mark_parts(word)
    try:
        now = number(cells()[cell]["__0"]["sequence"])
    except (gdb.error, gdb.GdbError, IndexError):
        return f"marked by cell {cell} at {sequence}"
    if now == sequence:
        return f"LOCKED by cell {cell} at {sequence}"
    return f"unlocked (mark of cell {cell} at {sequence} has ended)"


def lock_text(lock):
    detached = ", DETACHED" if number(lock["detached"]) else ""
    return mark_text(number(lock["mark"])) + detached


def kind_text(kind):
    """An enumeration's variant, without its path."""
    return str(kind).rsplit("::", 1)[-1].lower()


def vma_text(vma):
    attributes = vma["attributes"]
    rights = rights_text(number(attributes["rights"]))
    flags = number(attributes["flags"])
    names = [name for bit, name in VMA_FLAGS if flags & bit]
    words = [f"{int(vma['start']):#x}-{int(vma['end']):#x}", rights, kind_text(vma["kind"])] + names
    return " ".join(words) + " " + lock_text(vma["lock"]["__0"])


def cell_text(cell):
    state = "taken" if number(cell["taken"]) else "free"
    waiting = number(cell["sleepers"]["waiting"])
    return f"sequence {number(cell['sequence'])}, {state}" + (f", {waiting} waiting" if waiting else "")


def cpu_set(bits):
    return "{" + ",".join(str(cpu) for cpu in range(64) if bits >> cpu & 1) + "}"


# --- the range tree ---------------------------------------------------------------------------------------------------


def tree_root(tree):
    word = number(tree["root"])
    return word & ~TREE_LEVELS_MASK, word & TREE_LEVELS_MASK


def value_type(tree):
    """The type of the values in a tree: its second parameter."""
    return re.sub(r"^.*?,\s*(.*)>$", r"\1", str(tree.type.strip_typedefs().name))


def leaf_entries(address, value_name):
    leaf = at(address, f"mm::tree::node::Leaf<{value_name}>")
    values = address_of(leaf["values"])
    for slot in range(int(leaf["starts"].type.range()[1]) + 1):
        start = int(leaf["starts"][slot])
        if start == TREE_UNUSED:
            return
        yield start, int(leaf["ends"][slot]), word_at(values + 8 * slot)


def children(address):
    inner = at(address, "mm::tree::node::Inner")
    return [number(inner["children"][index]) for index in range(int(inner["len"]))]


def walk_tree(tree):
    """Each node from the left: depth, address, height above the leaves."""
    root, levels = tree_root(tree)
    name = value_type(tree)

    def below(address, level, depth):
        yield depth, address, level
        if level > 0:
            for child in children(address):
                yield from below(child, level - 1, depth + 1)

    if root:
        for depth, address, level in below(root, levels - 1, 0):
            yield depth, address, level, name


def tree_entries(tree):
    """Start, end and word of each range, ascending."""
    for _, address, level, name in walk_tree(tree):
        if level == 0:
            yield from leaf_entries(address, name)


def vmas(space):
    for _, _, word in tree_entries(space["tree"]):
        yield at(word, "mm::vma::Vma")


# --- page tables ------------------------------------------------------------------------------------------------------

LEVELS = ["root", "1 GiB", "2 MiB", "4 KiB"]


def walk_tables(address, root):
    """Each entry on the way of an address: its level's name, its index, its value."""
    table = root & ENTRY_ADDRESS
    for level, name in enumerate(LEVELS):
        index = address >> (39 - 9 * level) & 511
        entry = word_at(WINDOW + table + 8 * index)
        yield name, index, entry
        if not entry & ENTRY_PRESENT or (level > 0 and entry & ENTRY_LARGE) or level == 3:
            return
        table = entry & ENTRY_ADDRESS


# --- printers ---------------------------------------------------------------------------------------------------------


class Text:
    """A value that is one line."""

    def __init__(self, text, value):
        self.text, self.value = text, value

    def to_string(self):
        return self.text(self.value)


class Listing(Text):
    """A line, and children under it."""

    def __init__(self, text, value, items):
        super().__init__(text, value)
        self.items = items

    def children(self):
        for index, item in enumerate(self.items(self.value)):
            yield f"[{index}]", item


def shared_vma(reference):
    return at(raw_pointer(reference), "mm::vma::Vma")


def tree_text(tree):
    return f"{number(tree['len'])} ranges"


def tree_lines(tree):
    of_vmas = value_type(tree) == "mm::vma::VmaRef"
    for start, end, word in tree_entries(tree):
        yield vma_text(at(word, "mm::vma::Vma")) if of_vmas else f"{start:#x}-{end:#x}: {word:#x}"


def slot_lines(value):
    every = slice_of(value["slots"], padded("sync::vma_lock::slot::Slot"))
    return [slot_text(number(slot["__0"]["word"])) for slot in every[: cpu_count()]]


def busy_cells(every):
    """Those that are taken or that somebody waits for, by their numbers."""
    for index, cell in enumerate(every):
        if number(cell["__0"]["taken"]) or number(cell["__0"]["sleepers"]["waiting"]):
            yield f"cell {index}: {cell_text(cell['__0'])}"


def cells_text(value):
    return f"{int(value['cells']['length'])} cells"


def cell_lines(value):
    return busy_cells(slice_of(value["cells"], padded("sync::vma_lock::cell::Cell<kernel::machine::Machine>")))


def space_id(space):
    return int(space["counters"]["tally"]["inner"]["pointer"].dereference()["value"]["space"])


def space_text(space):
    joined = number(space["update"]["cpus"])
    return (
        f"address space {space_id(space)}: {number(space['tree']['len'])} VMAs, root table at "
        f"{int(space['tables']['root']):#x}, on CPUs {cpu_set(joined)}"
    )


PRINTERS = [
    (r"mm::vma::Vma", lambda value: Text(vma_text, value)),
    (r"mm::vma::VmaRef", lambda value: Text(lambda it: vma_text(shared_vma(it)), value)),
    (r"mm::vma::Rights", lambda value: Text(lambda it: rights_text(number(it)), value)),
    (r"sync::vma_lock::lock::VmaLock", lambda value: Text(lock_text, value)),
    (r"sync::vma_lock::mark::Mark", lambda value: Text(lambda it: mark_text(number(it)), value)),
    (r"sync::vma_lock::slot::Slot", lambda value: Text(lambda it: slot_text(number(it["word"])), value)),
    (r"sync::vma_lock::slot::Slots<.*>", lambda value: Listing(lambda _: "each CPU's slot", value, slot_lines)),
    (r"sync::vma_lock::cell::Cells<.*>", lambda value: Listing(cells_text, value, cell_lines)),
    (r"sync::vma_lock::cell::Cell<.*>", lambda value: Text(cell_text, value)),
    (r"mm::paging::entry::Entry(Cell)?", lambda value: Text(lambda it: entry_text(number(it)), value)),
    (r"mm::tree::RangeTree<.*>", lambda value: Listing(tree_text, value, tree_lines)),
    (r"mm::space::AddressSpace<.*>", lambda value: Text(space_text, value)),
]
PRINTERS = [(re.compile(f"^{name}$"), printer) for name, printer in PRINTERS]


def printer_for(value):
    name = value.type.strip_typedefs().unqualified().name
    for pattern, printer in PRINTERS:
        if name and pattern.match(name):
            return printer(value)
    return None


# --- backtraces ---------------------------------------------------------------------------------------------------------

# kernel/src/arch/{idt,syscall}.rs: below these lies the program's stack, or nothing.
ENTRIES = re.compile(r"^kernel::arch::(syscall::entry|idt::trap_entry|idt::paranoid_entry|idt::flush_entry)\b")


class UpToEntry:
    """Ends a backtrace where the kernel was entered: gdb cannot know, and would take what lies there for frames."""

    name, priority, enabled = "tessera", 100, True

    def filter(self, frames):
        for frame in frames:
            yield frame
            if ENTRIES.match(frame.inferior_frame().name() or ""):
                return


# --- commands ---------------------------------------------------------------------------------------------------------


class Tessera(gdb.Command):
    """What this kernel adds to gdb.

    tessera break NAME    a breakpoint in a function by its name without type parameters, or the name's end
    tessera cpus          each CPU: what it runs, in which address space, whether it serves a fault
    tessera vmas [SPACE]  the mappings of an address space, with their locks
    tessera slots         each CPU's fault slot: idle, or page and count
    tessera cells         sequence cells that are taken or that somebody waits for
    tessera pt ADDR [ROOT]  the page-table entries on the way of an address
    tessera tree [SPACE]  the range tree, node by node

    SPACE is an expression; without it: the selected CPU's, or the first that runs. ROOT is a physical address.
    Besides, `print` knows VMAs, their locks and marks, slots, cells, page-table entries, range trees and address spaces, and
    a backtrace ends where the kernel was entered. gdb 13 itself ends on some of Rust's enumerations in `info locals`: print
    variables one by one there."""

    def __init__(self):
        super().__init__("tessera", gdb.COMMAND_USER, prefix=True)

    def invoke(self, _argument, _from_tty):
        print(self.__doc__)


class Command(gdb.Command):
    """One of `tessera`'s."""

    def __init__(self, name, run):
        self.__doc__ = run.__doc__
        self.run = run
        super().__init__(f"tessera {name}", gdb.COMMAND_USER)

    def invoke(self, argument, _from_tty):
        try:
            self.run(argument.strip())
        except gdb.error as error:
            raise gdb.GdbError(str(error)) from None


def show_cpus(_argument):
    """Each CPU: what it runs, in which address space, whether it serves a fault."""
    busy = [number(slot["__0"]["word"]) for slot in slots()]
    for index, cpu in enumerate(cpus()):
        thread = running_thread(cpu)
        if thread is None:
            print(f"CPU {index}: not started")
            continue
        space = space_of(thread)
        where = "in the kernel's own tables" if space is None else f"in address space {space_id(space)}"
        doing = "".join(", " + word for word in thread_words(thread["report"]))
        print(f"CPU {index}: {thread_text(thread['report'])} {where}, slot {slot_text(busy[index])}{doing}")


def thread_text(report):
    """A thread's name, and a program's numbers: what `abi::report::ThreadBox` says."""
    name = gdb.selected_inferior().read_memory(number(report["name"]), number(report["name_len"]))
    tid, pid = number(report["tid"]), number(report["pid"])
    return name.tobytes().decode() + (f" (pid {pid} tid {tid})" if tid else "")


def thread_words(report):
    """What a thread is in the middle of."""
    call, transaction = number(report["call"]), number(report["transaction"])
    if call:
        yield "in a system call"
    if transaction:
        cell, sequence = mark_parts(transaction)
        yield f"in a transaction (cell {cell} at {sequence})"


def show_vmas(argument):
    """The mappings of an address space, with their locks: tessera vmas [SPACE]"""
    space = space_argument(argument)
    print(space_text(space))
    for vma in vmas(space):
        print(f"  {vma_text(vma)}")


def show_slots(_argument):
    """Each CPU's fault slot: idle, or the page of the fault that it serves and the fault's count."""
    for index, slot in list(enumerate(slots()))[: cpu_count()]:
        print(f"CPU {index}: {slot_text(number(slot['__0']['word']))}")


def show_cells(_argument):
    """Sequence cells that are taken or that somebody waits for."""
    every = cells()
    print("\n".join(busy_cells(every)) or f"{len(every)} cells, none taken")


def show_pt(argument):
    """The page-table entries on the way of an address: tessera pt ADDR [ROOT]"""
    words = gdb.string_to_argv(argument)
    if len(words) not in (1, 2):
        raise gdb.GdbError("tessera pt ADDR [ROOT]")
    address = int(gdb.parse_and_eval(words[0])) & (2**64 - 1)
    root = int(gdb.parse_and_eval(words[1])) if len(words) == 2 else cr3()
    for name, index, entry in walk_tables(address, root):
        print(f"{name:>6} table, entry {index:3}: {entry_text(entry)}")


def cr3():
    """The selected CPU's root table."""
    return int(gdb.selected_frame().read_register("cr3")) & (2**64 - 1)


def without_generics(name):
    """`mm::gather::Gather<..>::finish<..>` as people write it."""
    while True:
        shorter = re.sub(r"<[^<>]*>", "", name.replace("->", ""))
        if shorter == name:
            return name
        name = shorter


def set_break(argument):
    """Stops in functions by their name without type parameters, or its end: tessera break Gather::finish"""
    if not re.fullmatch(r"\w+(::\w+)*", argument):
        raise gdb.GdbError("tessera break NAME")
    file, places = None, []
    for line in gdb.execute(f"info functions {argument.rsplit('::', 1)[-1]}", to_string=True).splitlines():
        if line.startswith("File "):
            file = line[len("File ") : -1]
        found = re.match(r"(\d+):\s+(?:static )?fn (.*)", line)
        if found and ("::" + without_generics(found[2]).split("(", 1)[0]).endswith("::" + argument):
            places.append(f"{file}:{found[1]}")
    for place in dict.fromkeys(places):
        gdb.execute(f"break {place}")
    if not places:
        raise gdb.GdbError(f"no function {argument} of its own (it may be part of its callers): break FILE:LINE")


def show_tree(argument):
    """The range tree of an address space, node by node: tessera tree [SPACE]"""
    tree = space_argument(argument)["tree"]
    print(tree_text(tree))
    for depth, address, level, name in walk_tree(tree):
        indent = "  " * depth
        if level > 0:
            print(f"{indent}inner {address:#x}, {len(children(address))} children")
            continue
        print(f"{indent}leaf {address:#x}")
        for _, _, word in leaf_entries(address, name):
            print(f"{indent}  {vma_text(at(word, 'mm::vma::Vma'))}")


def install():
    printers = gdb.pretty_printers
    # Reading this file again replaces what it made before.
    printers[:] = [printer for printer in printers if getattr(printer, "__name__", "") != printer_for.__name__]
    printers.insert(0, printer_for)
    gdb.frame_filters[UpToEntry.name] = UpToEntry()
    Tessera()
    for name, run in [
        ("break", set_break),
        ("cpus", show_cpus),
        ("vmas", show_vmas),
        ("slots", show_slots),
        ("cells", show_cells),
        ("pt", show_pt),
        ("tree", show_tree),
    ]:
        Command(name, run)


install()
