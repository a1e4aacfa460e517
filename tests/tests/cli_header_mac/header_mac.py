"""The MAC of a blessed header, computed by the documentation in keyslot/src/header_mac.rs and luks2/src/canonical.rs
alone: header_mac.py DEVICE VOLUME-KEY-FILE. Ends with 0 when the token in the header says the same."""
import base64, hashlib, hmac, json, struct, sys

image = open(sys.argv[1], "rb").read(4 << 20)
key = open(sys.argv[2], "rb").read()


def canonical(value):
    if isinstance(value, dict):
        return "{" + ",".join(canonical(k) + ":" + canonical(value[k]) for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return "f" + struct.pack(">d", value).hex()
    return json.dumps(value, ensure_ascii=False)


def tag(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def field(at, length):
    return image[at : at + length].split(b"\0")[0]


(size,) = struct.unpack(">Q", image[8:16])
binary = {"version": 2, "hdr_size": size, "label": field(24, 48).hex(), "subsystem": field(208, 48).hex()}
binary["uuid"] = field(168, 40).decode()
metadata = json.loads(field(4096, size - 4096))
metadata["config"].pop("luksmith-owed-wipes", None)
((number, token),) = [(n, t) for n, t in metadata["tokens"].items() if t["type"] == "luksmith-header"]
said = token.pop("mac")

mac_key = tag(key, b"luksmith header mac 1\x01")
whole = canonical({"binary": binary, "metadata": metadata}).encode()
computed = base64.b64encode(tag(mac_key, b"header\0" + whole)).decode()

parts = {"binary": canonical(binary), "counter": canonical(token["tpm2-counter"]) if "tpm2-counter" in token else ""}
parts |= {name: canonical(metadata[name]) for name in ("segments", "digests", "config")}
parts |= {f"{kind}/{n}": canonical(v) for kind in ("keyslots", "tokens") for n, v in metadata[kind].items()}
del parts["tokens/" + number]
short = lambda name, text: tag(mac_key, f"part\0{name}\0{text}".encode())[:8]
parts = {name: base64.b64encode(short(name, text)).decode() for name, text in parts.items()}

print(said, computed, parts)
sys.exit(0 if said == computed and token["parts"] == parts else 1)
