//! Good images, and hostile ones.

use super::*;

#[path = "../../../tests/eeprom_images/mod.rs"]
mod images;

use images::{FILE, Flash, LOADER, PADDING, PI4_BYTES, PI4_CONFIG, PI5_CONFIG};

/// Every layout, with this configuration.
fn layouts(config: &str) -> [(Vec<u8>, Soc, bool); 4] {
    [
        (images::pi4(config), Soc::Bcm2711, false),
        (images::pi4_config_last(config), Soc::Bcm2711, false),
        (images::pi5(config), Soc::Bcm2712, false),
        (images::pi5_two_systems(config), Soc::Bcm2712, true),
    ]
}

fn check(bytes: &[u8], config: &str) {
    let image = Image::parse(bytes.to_vec()).unwrap();
    let replaced = image.with_config(config.as_bytes()).unwrap();
    let again = Image::parse(replaced.clone()).unwrap();
    assert_eq!(again.config(), config.as_bytes());
    // The same other sections at the same places.
    let others = |image: &Image| -> Vec<(u32, usize, usize)> {
        let config = image.sections[image.config].at;
        let others = image.sections.iter().filter(|section| section.at != config && section.magic != MAGIC_PADDING);
        others.map(|section| (section.magic, section.at, section.length)).collect()
    };
    assert_eq!(others(&again), others(&image));
    // And no byte elsewhere differs.
    let slot = image.sections[image.config].at..image.slot().end;
    assert!(replaced[..slot.start] == bytes[..slot.start] && replaced[slot.end..] == bytes[slot.end..]);
    // Back again is the image that it was.
    let back = again.with_config(image.config()).unwrap();
    assert!(back == bytes, "not the same image after there and back");
}

fn refused(bytes: &[u8], expected: ImageError) {
    assert_eq!(Image::parse(bytes.to_vec()).map(|_| ()), Err(expected));
}

#[test]
fn every_layout_is_read() {
    for (bytes, soc, two_systems) in layouts(PI5_CONFIG) {
        let image = Image::parse(bytes).unwrap();
        assert_eq!((image.soc(), image.has_two_systems()), (soc, two_systems));
        assert_eq!(image.config(), PI5_CONFIG.as_bytes());
        assert!(!image.is_signed());
    }
}

#[test]
fn the_configuration_is_replaced_in_place_and_nothing_else() {
    for (bytes, _, _) in layouts(PI4_CONFIG) {
        // Shorter, longer, of every remainder of 8, and up to the last byte.
        for length in (0..40).chain([200, 2024]) {
            check(&bytes, &"A".repeat(length));
        }
        let room = match Image::parse(bytes.clone()).unwrap().with_config(&[b'A'; 5000]) {
            Err(ImageError::NoRoom { needed: 5000, room }) => room,
            other => panic!("{:?}", other.map(|_| ())),
        };
        assert!((4000..=MAX_CONFIG_BYTES).contains(&room), "{room}");
        for length in room - 20..=room {
            check(&bytes, &"A".repeat(length));
        }
        let image = Image::parse(bytes).unwrap();
        let config = vec![b'A'; room + 1];
        assert_eq!(image.with_config(&config), Err(ImageError::NoRoom { needed: room + 1, room }));
    }
}

#[test]
fn the_copy_in_the_part_that_is_never_rewritten_stays() {
    let image = Image::parse(images::pi5_two_systems(PI4_CONFIG)).unwrap();
    let replaced = image.with_config(b"BOOT_ORDER=0xf21\n").unwrap();
    assert_eq!(replaced[..0x10000], image.bytes()[..0x10000]);
}

#[test]
fn a_last_file_does_not_grow_over_what_is_no_erased_flash() {
    let mut bytes = images::pi4_config_last(PI4_CONFIG);
    bytes[0x73100] = 0x42;
    let image = Image::parse(bytes).unwrap();
    let Err(ImageError::NoRoom { room, .. }) = image.with_config(&[b'A'; 3000]) else { panic!("it grew") };
    assert_eq!(room, 0x73100 - 0x73018 - 8);
    image.with_config(&vec![b'A'; room]).unwrap();
}

#[test]
fn a_file_between_others_has_its_own_slot_only() {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 100]).file("bootconf.txt", b"A=1\n").file("pubkey.bin", &[7; 264]);
    let image = Image::parse(flash.done()).unwrap();
    assert_eq!(image.with_config(b"A=12345\nB"), Err(ImageError::NoRoom { needed: 9, room: 8 }));
    check(&flash.done(), "A=12345\n");
}

#[test]
fn a_signed_configuration_is_told() {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 100]).block("bootconf.txt", b"A=1\n").file("bootconf.sig", b"ab12");
    assert!(Image::parse(flash.done()).unwrap().is_signed());
}

#[test]
fn the_day_it_was_built_is_read_where_it_says_so() {
    let built = |text: &[u8]| {
        let mut flash = Flash::new(PI4_BYTES);
        let bytes = flash.section(LOADER, text).block("bootconf.txt", b"A=1\n").done();
        Image::parse(bytes).unwrap().built()
    };
    assert_eq!(built(b"..BUILD_TIMESTAMP=1785801600\0.."), Some(1_785_801_600));
    assert_eq!(built(b"BUILD_TIMESTAMP=17858016009\0"), Some(1_785_801_600));
    assert_eq!(built(b"BUILD_TIMESTAMP=9999999999"), None);
    assert_eq!(built(b"BUILD_TIMESTAMP="), None);
    assert_eq!(built(b"BUILD"), None);
    // At the very end of the flash.
    let mut bytes = images::pi4(PI4_CONFIG);
    bytes[PI4_BYTES - 18..].copy_from_slice(b"BUILD_TIMESTAMP=12");
    assert_eq!(Image::parse(bytes).unwrap().built(), Some(12));
}

#[test]
fn a_configuration_filled_up_to_its_block_is_read_without_the_filling() {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 100]).block("bootconf.txt", b"A=1\n\0\0\0");
    assert_eq!(Image::parse(flash.done()).unwrap().config(), b"A=1\n");
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    refused(&[], ImageError::Size(0));
    refused(&images::pi4(PI4_CONFIG)[..PI4_BYTES - 1], ImageError::Size(PI4_BYTES - 1));
    refused(&images::pi5(PI5_CONFIG)[..PI4_BYTES + 1], ImageError::Size(PI4_BYTES + 1));
    // Cut to a size that exists: the chain leads out of it.
    let cut = Image::parse(images::pi5(PI5_CONFIG)[..PI4_BYTES].to_vec()).unwrap_err();
    assert!(matches!(cut, ImageError::BeyondEnd { .. }), "{cut:?}");
    refused(&vec![0xff; PI4_BYTES], ImageError::Empty);
    refused(&vec![0; PI4_BYTES], ImageError::Empty);
    refused(&vec![0x20; PI4_BYTES], ImageError::Magic { at: 0, found: 0x2020_2020 });
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 96]).section(0x55aa_0000, &[]);
    refused(&flash.done(), ImageError::Magic { at: 104, found: 0x55aa_0000 });
}

#[test]
fn a_length_beyond_the_end_is_refused() {
    for length in [u32::MAX, u32::MAX - 7, PI4_BYTES as u32, (PI4_BYTES - 104 - 7) as u32] {
        let mut flash = Flash::new(PI4_BYTES);
        flash.section(LOADER, &[1; 96]).header(FILE, length);
        refused(&flash.done(), ImageError::BeyondEnd { at: 104, length });
    }
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 96]).header(PADDING, (PI4_BYTES - 104 - 8) as u32);
    refused(&flash.done(), ImageError::NoConfig);
}

#[test]
fn a_file_shorter_than_its_name_is_refused() {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &[1; 96]).header(FILE, 15);
    refused(&flash.done(), ImageError::ShortFile { at: 104, length: 15 });
}

#[test]
fn an_endless_chain_ends() {
    let mut flash = Flash::new(PI4_BYTES);
    for _ in 0..=MAX_SECTIONS {
        flash.header(PADDING, 0);
    }
    refused(&flash.done(), ImageError::TooManySections);
}

#[test]
fn no_configuration_or_two_are_refused() {
    let mut none = Flash::new(PI4_BYTES);
    none.section(LOADER, &[1; 96]).file("bootconf.sig", b"").file("BOOTCONF.TXT", b"").file("bootconf.tx", b"");
    refused(&none.done(), ImageError::NoConfig);
    let mut two = Flash::new(PI4_BYTES);
    two.section(LOADER, &[1; 96]).file("bootconf.txt", b"A=1").file("bootconf.txt", b"A=1");
    refused(&two.done(), ImageError::TwoConfigs(104, 136));
    let mut systems = Flash::new(2 << 20);
    systems.section(LOADER, &[1; 96]).pad_to(0x10000).file("bootsys", b"").file("bootconf.txt", b"A");
    systems.pad_to(0x107000).file("bootsys", b"").file("bootconf.txt", b"B");
    assert!(matches!(Image::parse(systems.done()), Err(ImageError::TwoConfigs(..))));
}

#[test]
fn a_configuration_that_cannot_be_one_is_refused() {
    let with = |config: &[u8]| Flash::new(PI4_BYTES).section(LOADER, &[1; 96]).file("bootconf.txt", config).done();
    refused(&with(&[b'A'; 4077]), ImageError::ConfigTooLarge(4077));
    assert!(Image::parse(with(&[b'A'; 4076])).is_ok());
    refused(&with(b"A=1\n\0B=2\n"), ImageError::NotText);
    refused(&with(b"\x7fELF"), ImageError::NotText);
}

proptest::proptest! {
    #[test]
    fn no_image_makes_it_panic(
        words: Vec<(bool, u16)>,
        patches in proptest::collection::vec((0_usize..0x80000, proptest::num::u8::ANY), 0..20),
        config in "[A-Z=\n]{0,100}",
    ) {
        let mut flash = Flash::new(PI4_BYTES);
        for (is_file, length) in words.into_iter().take(6) {
            let content = images::noise(usize::from(length));
            if is_file { flash.file("bootconf.txt", &[]) } else { flash.section(LOADER, &content) };
        }
        for (at, byte) in patches {
            flash.bytes[at] = byte;
        }
        if let Ok(image) = Image::parse(flash.done())
            && let Ok(bytes) = image.with_config(config.as_bytes())
        {
            let again = Image::parse(bytes).unwrap();
            proptest::prop_assert_eq!(again.config(), config.as_bytes());
        }
    }
}
