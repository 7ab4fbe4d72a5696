//! Where the firmware's mailbox is, by the flattened device tree that the firmware itself
//! gave the kernel (Devicetree Specification 0.4, chapter 5). Pure.
//!
//! Pi 3, 4 and 5 have it at three places, and two of them give the GPU another view of
//! memory than the ARM's: the kernel's own driver goes by the same nodes.

/// Longest tree that is read: what arm64 Linux takes.
pub const MAX_BYTES: usize = 2 << 20;
/// Most nodes of one; Debian's of a Pi has some 300, with overlays not many more.
const MAX_NODES: usize = 8192;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

const MAILBOX: &str = "brcm,bcm2835-mbox";
const FIRMWARE: &str = "raspberrypi,bcm2835-firmware";

/// How the firmware is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mailbox {
    /// The registers' place for the ARM.
    pub registers: u64,
    /// Memory that the GPU can see, by the ARM's addresses: from, and its bytes.
    pub memory: (u64, u64),
    /// What the GPU calls its first byte.
    pub bus: u64,
}

impl Mailbox {
    /// What the GPU calls a page, if it can see all of it and a message can name it.
    pub fn bus_address(&self, page: u64, page_bytes: u64) -> Option<u32> {
        let at = page.checked_sub(self.memory.0)?;
        let inside = at.checked_add(page_bytes)? <= self.memory.1;
        inside.then(|| self.bus.checked_add(at)).flatten().and_then(|bus| u32::try_from(bus).ok())
    }
}

/// `None` where the tree is none, or of a machine without it.
pub fn mailbox(blob: &[u8]) -> Option<Mailbox> {
    let tree = Tree::parse(blob)?;
    let registers = tree.compatible(MAILBOX).and_then(|node| tree.registers(node))?;
    let (bus, memory) = tree.compatible(FIRMWARE).and_then(|node| tree.dma(node))?;
    Some(Mailbox { registers, memory, bus })
}

/// What of a node tells an address.
#[derive(Debug, Clone, Copy)]
struct Node<'b> {
    /// The root's own is itself.
    parent: usize,
    address_cells: u32,
    size_cells: u32,
    compatible: &'b [u8],
    reg: &'b [u8],
    ranges: Option<&'b [u8]>,
    dma_ranges: Option<&'b [u8]>,
}

#[derive(Debug)]
struct Tree<'b> {
    /// Each behind its parent.
    nodes: Vec<Node<'b>>,
}

const ROOT: usize = 0;

impl<'b> Tree<'b> {
    fn parse(blob: &'b [u8]) -> Option<Self> {
        let header = |index: usize| cell(blob, index * 4).filter(|_| blob.len() <= MAX_BYTES);
        if header(0)? != MAGIC {
            return None;
        }
        let structure = blob.get(header(2)? as usize..)?;
        let strings = blob.get(header(3)? as usize..)?;
        let mut nodes: Vec<Node<'b>> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut at = 0;
        loop {
            let token = cell(structure, at)?;
            at += 4;
            match token {
                BEGIN_NODE => {
                    // Only one root.
                    if nodes.len() >= MAX_NODES || (open.is_empty() && !nodes.is_empty()) {
                        return None;
                    }
                    at = align(at + word(structure, at)?.len() + 1);
                    let parent = open.last().copied().unwrap_or(ROOT);
                    open.push(nodes.len());
                    // §2.3.5: two and one where a node says nothing.
                    let (compatible, reg): (&[u8], &[u8]) = (&[], &[]);
                    let (address_cells, size_cells, ranges, dma_ranges) = (2, 1, None, None);
                    nodes.push(Node { parent, address_cells, size_cells, compatible, reg, ranges, dma_ranges });
                }
                PROP => {
                    let (length, name) = (cell(structure, at)? as usize, cell(structure, at + 4)? as usize);
                    let value = structure.get(at + 8..(at + 8).checked_add(length)?)?;
                    at = align(at + 8 + length);
                    let node = nodes.get_mut(*open.last()?)?;
                    match word(strings, name)? {
                        b"#address-cells" => node.address_cells = cell(value, 0)?,
                        b"#size-cells" => node.size_cells = cell(value, 0)?,
                        b"compatible" => node.compatible = value,
                        b"reg" => node.reg = value,
                        b"ranges" => node.ranges = Some(value),
                        b"dma-ranges" => node.dma_ranges = Some(value),
                        _ => {}
                    }
                }
                END_NODE => {
                    open.pop()?;
                    if open.is_empty() {
                        return Some(Self { nodes });
                    }
                }
                NOP => {}
                _ => return None,
            }
        }
    }

    /// The first node that says it is `wanted`, also as its second word.
    fn compatible(&self, wanted: &str) -> Option<usize> {
        let is = |node: &Node<'_>| node.compatible.split(|&byte| byte == 0).any(|word| word == wanted.as_bytes());
        self.nodes.iter().position(is)
    }

    /// Where a node's registers are for the ARM: `reg` through the `ranges` of all above it.
    fn registers(&self, node: usize) -> Option<u64> {
        let node = &self.nodes[node];
        let mut above = node.parent;
        let mut address = number(node.reg, 0, self.nodes[above].address_cells)?;
        while above != ROOT {
            // §2.3.8: without the property nothing below is the ARM's to reach.
            address = self.translate(above, self.nodes[above].ranges?, address)?;
            above = self.nodes[above].parent;
        }
        Some(address)
    }

    /// An address of the bus `node`, for the bus above it.
    fn translate(&self, node: usize, ranges: &[u8], address: u64) -> Option<u64> {
        if ranges.is_empty() {
            return Some(address);
        }
        self.entries(node, ranges)?.find_map(|(child, parent, size)| {
            let inside = address.checked_sub(child).filter(|&at| at < size)?;
            parent.checked_add(inside)
        })
    }

    /// The GPU's view of memory: its first byte's bus address, and which of the ARM's that is. By the nearest node
    /// above that says it; where none does, both see the same.
    fn dma(&self, node: usize) -> Option<(u64, (u64, u64))> {
        let mut above = node;
        while above != ROOT {
            above = self.nodes[above].parent;
            let Some(ranges) = self.nodes[above].dma_ranges.filter(|ranges| !ranges.is_empty()) else { continue };
            // The first is of memory, others are of peripherals.
            let (child, mut parent, size) = self.entries(above, ranges)?.next()?;
            while above != ROOT {
                above = self.nodes[above].parent;
                if let Some(ranges) = self.nodes[above].dma_ranges {
                    parent = self.translate(above, ranges, parent)?;
                }
            }
            return Some((child, (parent, size)));
        }
        Some((0, (0, 1 << 32)))
    }

    /// (child, parent, size) of each range of `node`.
    fn entries<'r>(&self, node: usize, ranges: &'r [u8]) -> Option<impl Iterator<Item = (u64, u64, u64)> + 'r> {
        let (own, above) = (self.nodes[node], self.nodes[self.nodes[node].parent]);
        let cells = [own.address_cells, above.address_cells, own.size_cells];
        // Three are PCI's, which has its own meaning for the first: no mailbox lies behind it.
        if cells.iter().any(|&cells| !(1..=2).contains(&cells)) {
            return None;
        }
        let bytes = cells.iter().sum::<u32>() as usize * 4;
        Some(ranges.chunks_exact(bytes).filter_map(move |entry| {
            let [child, parent, size] = cells;
            let parent_at = child as usize * 4;
            let size_at = parent_at + parent as usize * 4;
            Some((number(entry, 0, child)?, number(entry, parent_at, parent)?, number(entry, size_at, size)?))
        }))
    }
}

fn cell(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    bytes.get(at..end)?.try_into().ok().map(u32::from_be_bytes)
}

/// A number of one or two cells.
fn number(bytes: &[u8], at: usize, cells: u32) -> Option<u64> {
    match cells {
        1 => cell(bytes, at).map(u64::from),
        2 => Some(u64::from(cell(bytes, at)?) << 32 | u64::from(cell(bytes, at + 4)?)),
        _ => None,
    }
}

/// The bytes up to a NUL.
fn word(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.get(..rest.iter().position(|&byte| byte == 0)?)
}

fn align(at: usize) -> usize {
    at.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as dtc writes one.
    struct Writer {
        structure: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn new() -> Self {
            Self { structure: Vec::new(), strings: Vec::new() }
        }

        fn cells(&mut self, cells: &[u32]) -> &mut Self {
            self.structure.extend(cells.iter().flat_map(|cell| cell.to_be_bytes()));
            self
        }

        fn begin(&mut self, name: &str) -> &mut Self {
            self.cells(&[BEGIN_NODE]);
            self.structure.extend(name.bytes().chain([0]));
            self.structure.resize(align(self.structure.len()), 0);
            self
        }

        fn end(&mut self) -> &mut Self {
            self.cells(&[END_NODE])
        }

        fn property(&mut self, name: &str, value: &[u8]) -> &mut Self {
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes().chain([0]));
            self.cells(&[PROP, value.len() as u32, at]);
            self.structure.extend(value);
            self.structure.resize(align(self.structure.len()), 0);
            self
        }

        fn numbers(&mut self, name: &str, cells: &[u32]) -> &mut Self {
            let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
            self.property(name, &value)
        }

        fn blob(&self) -> Vec<u8> {
            let (structure, strings) = (40, 40 + self.structure.len() as u32 + 4);
            let mut blob: Vec<u8> = [MAGIC, 0, structure, strings, 0, 17, 16, 0, 0, 0]
                .iter()
                .flat_map(|cell: &u32| cell.to_be_bytes())
                .collect();
            blob.extend(&self.structure);
            blob.extend(9_u32.to_be_bytes());
            blob.extend(&self.strings);
            blob
        }
    }

    /// The nodes of a Pi 3 in Debian's 6.1 that matter.
    fn pi3() -> Writer {
        let mut tree = Writer::new();
        tree.begin("").numbers("#address-cells", &[1]).numbers("#size-cells", &[1]).begin("soc");
        tree.numbers("#address-cells", &[1]).numbers("#size-cells", &[1]);
        tree.numbers("ranges", &[0x7e00_0000, 0x3f00_0000, 0x100_0000, 0x4000_0000, 0x4000_0000, 0x1000]);
        tree.numbers("dma-ranges", &[0xc000_0000, 0, 0x3f00_0000, 0x7e00_0000, 0x3f00_0000, 0x100_0000]);
        tree.begin("mailbox@7e00b880").property("compatible", b"brcm,bcm2835-mbox\0");
        tree.numbers("reg", &[0x7e00_b880, 0x40]).end();
        tree.begin("firmware").property("compatible", b"raspberrypi,bcm2835-firmware\0simple-mfd\0").end();
        tree.end().end();
        tree
    }

    #[test]
    fn a_register_is_found_through_the_bus_that_it_is_on() {
        let found = mailbox(&pi3().blob()).unwrap();
        assert_eq!(found, Mailbox { registers: 0x3f00_b880, memory: (0, 0x3f00_0000), bus: 0xc000_0000 });
    }

    #[test]
    fn two_cells_and_no_view_of_its_own_are_a_pi_5s() {
        let mut tree = Writer::new();
        tree.begin("").numbers("#address-cells", &[2]).numbers("#size-cells", &[2]).begin("soc@107c000000");
        tree.numbers("ranges", &[0, 0x10, 0, 0x8000_0000]).numbers("#address-cells", &[1]);
        tree.numbers("#size-cells", &[1]).begin("mailbox@7c013880").numbers("reg", &[0x7c01_3880, 0x40]);
        tree.property("compatible", b"brcm,bcm2835-mbox\0").end().end();
        tree.begin("firmware").begin("rpi-firmware");
        tree.property("compatible", b"raspberrypi,bcm2835-firmware\0simple-mfd\0").end().end().end();
        let found = mailbox(&tree.blob()).unwrap();
        assert_eq!(found, Mailbox { registers: 0x10_7c01_3880, memory: (0, 1 << 32), bus: 0 });
    }

    #[test]
    fn a_page_has_a_bus_address_only_where_the_gpu_sees_all_of_it() {
        let pi3 = Mailbox { registers: 0, memory: (0, 0x3f00_0000), bus: 0xc000_0000 };
        assert_eq!(pi3.bus_address(0x1000, 4096), Some(0xc000_1000));
        assert_eq!(pi3.bus_address(0x3eff_f000, 4096), Some(0xfeff_f000));
        assert_eq!(pi3.bus_address(0x3eff_f001, 4096), None);
        let pi5 = Mailbox { registers: 0, memory: (0, 1 << 32), bus: 0 };
        assert_eq!(pi5.bus_address(0xffff_f000, 4096), Some(0xffff_f000));
        assert_eq!(pi5.bus_address(1 << 32, 4096), None);
        let shifted = Mailbox { memory: (0x1000, 0x2000), ..pi3 };
        assert_eq!(shifted.bus_address(0, 4096), None);
        assert_eq!(shifted.bus_address(0x2000, 4096), Some(0xc000_1000));
    }

    #[test]
    fn a_bus_that_leads_nowhere_and_a_tree_without_the_nodes_have_no_mailbox() {
        let mut tree = Writer::new();
        tree.begin("").begin("usb").begin("mailbox").numbers("reg", &[0, 1, 1]);
        tree.property("compatible", b"brcm,bcm2835-mbox\0").end();
        tree.begin("firmware").property("compatible", b"raspberrypi,bcm2835-firmware\0").end().end().end();
        assert_eq!(mailbox(&tree.blob()), None);
        assert_eq!(mailbox(&Writer::new().begin("").end().blob()), None);
    }

    #[test]
    fn a_broken_tree_is_none() {
        let whole = pi3().blob();
        assert!(mailbox(&whole).is_some());
        for length in 0..whole.len() - 1 {
            // The strings' end may be missing unless a name there is one that matters.
            let _ = mailbox(&whole[..length]);
        }
        assert_eq!(mailbox(&whole[..60]), None);
        assert_eq!(mailbox(b""), None);
        let endless: Vec<u8> = Writer::new().begin("").blob();
        assert_eq!(mailbox(&endless), None);
        let mut wide = Writer::new();
        wide.begin("");
        for _ in 0..MAX_NODES {
            wide.begin("a").end();
        }
        assert_eq!(mailbox(&wide.end().blob()), None);
    }
}
