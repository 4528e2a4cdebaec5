# What a person would type, for a machine that runs `landmarks`: each piece of gdb's answer under a heading of its own, so that
# `main.rs` can compare it with what that program did. gdb reads this after the file of commands that the launcher wrote.

import gdb

FIRST_PAGE_8 = 0x1000_0000_8000
DOOMED = 0x1000_2000_0000


def show(heading, command):
    print(f"== {heading}", flush=True)
    try:
        gdb.execute(command)
    except gdb.error as error:
        print(f"error: {error}")


def line_of(file, text):
    """Where a line of the kernel's sources is now."""
    path = gdb.decode_line(f"{file}:1")[1][0].symtab.fullname()
    with open(path, encoding="utf-8") as source:
        return str(next(number for number, line in enumerate(source, 1) if text in line))


class OnPage(gdb.Breakpoint):
    """A breakpoint inside the fault path that stops for one page only."""

    def stop(self):
        # `tessera.py` was sourced before: its functions are here.
        words = [number(slot["__0"]["word"]) for slot in slots()[: cpu_count()]]
        return any(word & 1 and word & ~0xFFF == FIRST_PAGE_8 for word in words)


show("before the kernel", "tessera slots")

# Where a fault takes its frame: late on its path, and a function that is there however the rest is optimised.
fault = OnPage("kernel/mm/src/frame/mod.rs:" + line_of("kernel/mm/src/frame/mod.rs", "fn alloc_zeroed"))
gdb.execute("continue")
show("a fault: backtrace", "backtrace")
show("a fault: list", "list")
show("a fault: slots", "tessera slots")
show("a fault: cpus", "tessera cpus")
show("a fault: pt", f"tessera pt {FIRST_PAGE_8:#x}")
fault.delete()

call = gdb.Breakpoint("kernel/linux/src/call/memory.rs:" + line_of("kernel/linux/src/call/memory.rs", "fn munmap"))
gdb.execute("continue")
show("munmap: backtrace", "backtrace")
show("munmap: vmas", "tessera vmas")
show("munmap: cells", "tessera cells")
show("munmap: tree", "tessera tree")
for name, address in [
    ("page 0", 0x1000_0000_0000),
    ("page 1", 0x1000_0000_1000),
    ("page 2", 0x1000_0000_2000),
    ("page 8", FIRST_PAGE_8),
    ("doomed", DOOMED),
]:
    show(f"munmap: pt of {name}", f"tessera pt {address:#x}")
call.delete()

show("break", "tessera break Gather::finish")
gdb.execute("continue")
show("shootdown: vmas", "tessera vmas")
show("shootdown: cells", "tessera cells")
show("shootdown: cpus", "tessera cpus")
show("shootdown: pt of doomed", f"tessera pt {DOOMED:#x}")
show("shootdown: the space, printed", "print *self.space")
show("shootdown: its tree, printed", "print self.space.tree")
show("shootdown: the cells, printed", "print self.space.memory.locks.cells")
show("shootdown: the slots, printed", "print self.space.memory.locks.slots")
gdb.execute("delete")

show("help", "help tessera")
show("wrong", "tessera vmas 1 +")
show("nowhere", "tessera break no_such_function")
print("== end", flush=True)
gdb.execute("detach")
