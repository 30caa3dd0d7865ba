import { prefix } from "./access-lists.ts";
import { jsonOf, optional, section, withDefault } from "./fields.ts";
import { boolean, hostAddress, integer, listOf, port, text, words } from "./kinds.ts";

/** Every key of a decapsulator's file (`headgate decap`): see schema.ts, which is the gateway's. */

/** VIPs of one decapsulator. */
const VIPS_MAX = 4096;
const PREFIXES_MAX = 1024;

export const decapFileSchema = section(
  {
    version: withDefault(integer(1, 1), 1, "Version of this format"),
    log: section(
      {
        level: withDefault(
          words(["trace", "debug", "info", "warn", "error"]),
          "info",
          "Lowest level that is logged",
        ),
      },
      "Log on standard error",
    ),
    decap: section(
      {
        name: withDefault(
          text("an interface name", /^[^\s/:%]+$/, { max: 15 }),
          "hgd0",
          "Name of the TUN device",
        ),
        protocols: withDefault(
          listOf(words(["ipip", "gue"]), { min: 1, max: 2, distinct: true }),
          ["ipip", "gue"],
          "Tunnels that are taken off",
        ),
        gue: section(
          {
            port: withDefault(port, 6080, "UDP port of GUE"),
            zeroChecksum: withDefault(
              boolean,
              false,
              "Take GUE over IPv6 without a checksum (RFC 6935)",
            ),
          },
          "Generic UDP encapsulation",
        ),
        vip: optional(
          listOf(hostAddress, { min: 1, max: VIPS_MAX, distinct: false }),
          "Addresses of the services: the only destinations that inner packets may have",
          "required",
        ),
        accept: withDefault(
          listOf(prefix, { min: 0, max: PREFIXES_MAX, distinct: false }),
          [],
          "Prefixes of the gateways' outer sources; none: every source",
        ),
        mtu: withDefault(integer(1280, 65_535), 1500, "MTU of the TUN device"),
        arp: withDefault(
          words(["hide", "leave"]),
          "hide",
          "hide: sets arp_ignore 1 and arp_announce 2, so that this host does not claim the VIPs",
        ),
      },
      "The decapsulator",
      ["vip"],
    ),
  },
  "Headgate decapsulator",
  ["decap"],
);

/** The file as JSON Schema (draft 2020-12): `headgate decap --schema`. */
export function decapJsonSchema(): Record<string, unknown> {
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Headgate decapsulator",
    ...jsonOf(decapFileSchema),
  };
}
