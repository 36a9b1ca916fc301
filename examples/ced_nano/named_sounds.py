# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Twelve everyday sounds, and their recordings, which are held out by their file names.

The recordings were selected before the first training, by their file names, among those for which the teacher also
predicts the sound. A student cannot learn classes that its teacher does not predict.
"""

from fnmatch import fnmatch

# sound: (AudioSet classes of the sound and its kinds, recordings)
NAMED_SOUNDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rooster": (
        ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
        ("tuxpaint-stamps-default/*/birds/rooster.ogg",),
    ),
    "dog": (
        ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
        ("tuxpaint-stamps-default/*/dogs/dog.ogg", "scorched3d-data/*/misc/dog*.wav"),
    ),
    "crow": (("Crow", "Caw"), ("sonic-pi-samples/*/misc_crow.flac",)),
    "bell": (
        (
            "Bell",
            "Church bell",
            "Jingle bell",
            "Bicycle bell",
            "Tubular bells",
            "Cowbell",
            "Doorbell",
            "Change ringing (campanology)",
        ),
        (
            "unknown-horizons/*/sounds/chapel.ogg",
            "supertux-data/*/sounds/savebell2.wav",
            "sonic-pi-samples/*/perc_bell.flac",
        ),
    ),
    "piano": (
        ("Piano", "Electric piano"),
        ("lmms-common/*/instruments/piano01.ogg", "general-midi/timgm6mb-soundfont/program00[01]_*.flac"),
    ),
    "guitar": (
        (
            "Guitar",
            "Electric guitar",
            "Bass guitar",
            "Acoustic guitar",
            "Steel guitar, slide guitar",
            "Tapping (guitar technique)",
            "Strum",
        ),
        ("lmms-common/*/latin_guitar*.ogg", "sonic-pi-samples/*/guit_e_fifths.flac"),
    ),
    "drum": (
        ("Drum", "Drum kit", "Drum machine", "Snare drum", "Rimshot", "Drum roll", "Bass drum", "Timpani", "Tabla"),
        (
            "sonic-pi-samples/*/loop_amen.flac",
            "sonic-pi-samples/*/loop_tabla.flac",
            "sonic-pi-samples/*/drum_snare_hard.flac",
        ),
    ),
    "speech": (
        (
            "Speech",
            "Male speech, man speaking",
            "Female speech, woman speaking",
            "Child speech, kid speaking",
            "Conversation",
            "Narration, monologue",
        ),
        ("fillets-ng-data/*/warcraft/en/war-*.ogg", "fillets-ng-data/*/elk/en/deu-p-*.ogg"),
    ),
    "laughter": (
        ("Laughter", "Baby laughter", "Giggle", "Snicker", "Belly laugh", "Chuckle, chortle"),
        (
            "hedgewars-data/*/Surfer/Laugh.ogg",
            "hedgewars-data/*/Mobster/Laugh.ogg",
            "trackballs-data/*/crazylaugh.wav",
            "wesnoth-1.16-data/*/dwarf-laugh.wav",
        ),
    ),
    "gunshot": (
        ("Gunshot, gunfire", "Machine gun", "Fusillade", "Artillery fire", "Cap gun"),
        (
            "hedgewars-data/*/Sounds/shotgunfire.ogg",
            "openarena-data/*/shotgun/sshotf1b.wav",
            "scorched3d-data/*/shoot/machinegun.wav",
        ),
    ),
    "rain": (
        ("Rain", "Raindrop", "Rain on surface"),
        ("scorched3d-data/*/misc/rain.wav",),
    ),
    "thunder": (
        ("Thunderstorm", "Thunder"),
        (
            "tuxpaint-stamps-default/*/lightningbolt.ogg",
            "ufoai-sound/*/ambience/thunder*.ogg",
        ),
    ),
}
# The recordings in resources/ are from the first package. The others have the same pianos as one of the sounds.
HELDOUT = (
    "sonic-pi-samples/*",
    "fillets-ng-data/*",
    "general-midi/timgm6mb-soundfont/program00[0-3]_*",
    "general-midi/timgm6mb-soundfont/band_*",
)


def is_reserved(source: str) -> bool:
    """Whether a recording (package/path) is held out because of its name."""
    patterns = [pattern for _, recordings in NAMED_SOUNDS.values() for pattern in recordings]
    return any(fnmatch(source, pattern) for pattern in (*patterns, *HELDOUT))
