//! The doubly linked list of waiters, whose nodes lie on the waiters' stacks.
//!
//! A list belongs to a spin lock: every field of it and of its linked nodes is touched by the lock's holder only.
//! Used by `wait`, `fair` and `futex`. Nothing here allocates, so waiting cannot fail.

use core::ptr::NonNull;

/// A waiter's entry.
pub(crate) struct Node<T> {
    links: Links<T>,
    /// What wakers need to know about the waiter.
    pub(crate) value: T,
}

struct Links<T> {
    next: Option<NonNull<Node<T>>>,
    prev: Option<NonNull<Node<T>>>,
    linked: bool,
}

impl<T> Links<T> {
    const NONE: Self = Links { next: None, prev: None, linked: false };
}

impl<T> Node<T> {
    pub(crate) const fn new(value: T) -> Self {
        Node { links: Links::NONE, value }
    }

    /// The links alone: the owner may be looking at the value meanwhile.
    ///
    /// # Safety
    /// `node` is alive, and the caller holds the lock of the only list that may link it.
    unsafe fn links<'a>(node: NonNull<Node<T>>) -> &'a mut Links<T> {
        // SAFETY: alive, says the caller; links are touched by the lock's holder only, and each call's borrow ends
        // before the next begins.
        unsafe { &mut (*node.as_ptr()).links }
    }
}

/// The waiters, longest waiting first.
pub(crate) struct List<T> {
    head: Option<NonNull<Node<T>>>,
    tail: Option<NonNull<Node<T>>>,
    len: usize,
}

// SAFETY: the nodes are touched by the holder of the list's lock only, whichever thread that is.
unsafe impl<T: Send> Send for List<T> {}

impl<T> List<T> {
    pub(crate) const fn new() -> Self {
        List { head: None, tail: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn front(&self) -> Option<NonNull<Node<T>>> {
        self.head
    }

    /// The node behind `node`.
    ///
    /// # Safety
    /// `node` is linked in this list.
    pub(crate) unsafe fn next(&self, node: NonNull<Node<T>>) -> Option<NonNull<Node<T>>> {
        // SAFETY: linked nodes are alive, and only the holder of the list touches them.
        unsafe { Node::links(node) }.next
    }

    /// Whether `node` is linked in the list that it may be in.
    ///
    /// # Safety
    /// `node` is alive, and this is the only list that may link it.
    pub(crate) unsafe fn is_linked(&self, node: NonNull<Node<T>>) -> bool {
        // SAFETY: the caller says that it is alive; the holder of the list may read it.
        unsafe { Node::links(node) }.linked
    }

    /// Appends `node`.
    ///
    /// # Safety
    /// `node` is alive, in no list, and stays where it is until it is out of this one again.
    pub(crate) unsafe fn push_back(&mut self, node: NonNull<Node<T>>) {
        let tail = self.tail.replace(node);
        // SAFETY: the caller says that the node is alive and in no list, so its links are ours now.
        let links = unsafe { Node::links(node) };
        debug_assert!(!links.linked);
        *links = Links { next: None, prev: tail, linked: true };
        match tail {
            // SAFETY: linked nodes are alive, and only the holder of the list touches them.
            Some(tail) => unsafe { Node::links(tail) }.next = Some(node),
            None => self.head = Some(node),
        }
        self.len += 1;
    }

    /// Takes `node` out.
    ///
    /// # Safety
    /// `node` is linked in this list.
    pub(crate) unsafe fn remove(&mut self, node: NonNull<Node<T>>) {
        // SAFETY: linked nodes are alive, and only the holder of the list touches them.
        let links = unsafe { Node::links(node) };
        debug_assert!(links.linked);
        let Links { next, prev, .. } = core::mem::replace(links, Links::NONE);
        match prev {
            // SAFETY: a neighbour of a linked node is linked.
            Some(prev) => unsafe { Node::links(prev) }.next = next,
            None => self.head = next,
        }
        match next {
            // SAFETY: a neighbour of a linked node is linked.
            Some(next) => unsafe { Node::links(next) }.prev = prev,
            None => self.tail = prev,
        }
        self.len -= 1;
    }

    /// Takes the first node out.
    pub(crate) fn pop_front(&mut self) -> Option<NonNull<Node<T>>> {
        let node = self.head?;
        // SAFETY: the head is linked.
        unsafe { self.remove(node) };
        Some(node)
    }
}
