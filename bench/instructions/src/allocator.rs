//! An allocator whose price does not depend on what came before.
//!
//! What `malloc` takes depends on how the heap is fragmented, which the order of a hash table or one
//! allocation more at the start can change by a hundredth of a request. Here a block comes from the list of
//! its size, a power of two, and goes back there: about what `malloc` takes at its best.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

pub struct FreeLists;

/// Blocks of 16 bytes to 64 KiB. What is larger is the system's.
const SMALLEST: usize = 16;
const LISTS: usize = 13;
/// What is asked of the system at once, to be cut into blocks.
const SLAB: usize = 64 << 10;

thread_local! {
    /// The first free block by size; each holds the address of the next. A block goes to the list of the
    /// thread that frees it, and slabs are never given back.
    static FREE: [Cell<*mut u8>; LISTS] = const { [const { Cell::new(null_mut()) }; LISTS] };
}

/// The list for blocks that fit, each at a multiple of its size.
fn list(layout: &Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
    let list = (size.trailing_zeros() - SMALLEST.trailing_zeros()) as usize;
    (list < LISTS).then_some(list)
}

// SAFETY: a block is in one list or with one owner, never in both; it is as long as its list says and
// stands at a multiple of that, and `list` gives one that is as long as the layout and its alignment.
unsafe impl GlobalAlloc for FreeLists {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(list) = list(&layout) else {
            // SAFETY: the caller's promise is ours.
            return unsafe { System.alloc(layout) };
        };
        FREE.with(|free| {
            if free[list].get().is_null() {
                free[list].set(slab(list));
            }
            let block = free[list].get();
            if !block.is_null() {
                // SAFETY: a free block begins with the address of the next.
                free[list].set(unsafe { block.cast::<*mut u8>().read() });
            }
            block
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(list) = list(&layout) else {
            // SAFETY: the caller's promise is ours, and `alloc` had it from there.
            return unsafe { System.dealloc(block, layout) };
        };
        FREE.with(|free| {
            // SAFETY: it is ours again, and long enough for an address.
            unsafe { block.cast::<*mut u8>().write(free[list].get()) };
            free[list].set(block);
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it is a size, as in what `GlobalAlloc` does by itself.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if list(&layout).is_some() && list(&layout) == list(&wanted) {
            return block;
        }
        // SAFETY: both are as long as what is copied, and no block is with two owners.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// A slab as a list of blocks; null where the system has no more.
#[cold]
fn slab(list: usize) -> *mut u8 {
    let size = SMALLEST << list;
    let Ok(layout) = Layout::from_size_align(SLAB, size) else { return null_mut() };
    // SAFETY: a slab has a size.
    let slab = unsafe { System.alloc(layout) };
    if slab.is_null() {
        return slab;
    }
    let mut next = null_mut();
    for start in (0..SLAB).step_by(size).rev() {
        // SAFETY: the block lies within the slab, at a multiple of its size.
        unsafe {
            let block = slab.add(start);
            block.cast::<*mut u8>().write(next);
            next = block;
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    // This program's own allocations go there as well, so all of its tests are tests of it.

    #[test]
    fn a_block_fits_its_layout_and_comes_back() {
        for (size, align) in
            [(1, 1), (16, 8), (17, 1), (100, 64), (8, 4096), (65_536, 1), (70_000, 8)]
        {
            let layout = Layout::from_size_align(size, align).expect("a layout");
            // SAFETY: each block is used within its length and freed once.
            unsafe {
                let block = FreeLists.alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                block.write_bytes(7, size);
                let other = FreeLists.alloc(layout);
                assert_ne!(block, other);
                let grown = FreeLists.realloc(block, layout, size * 3);
                assert!((0..size).all(|i| grown.add(i).read() == 7), "{layout:?}");
                FreeLists
                    .dealloc(grown, Layout::from_size_align(size * 3, align).expect("a layout"));
                FreeLists.dealloc(other, layout);
                if size <= SLAB {
                    assert_eq!(FreeLists.alloc(layout), other, "the last is used first");
                    FreeLists.dealloc(other, layout);
                }
            }
        }
    }
}
