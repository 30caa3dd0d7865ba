import assert from "node:assert/strict";
import { test } from "node:test";
import { keptCapabilities, resolveUser } from "../../src/host/users.ts";

test("a user by name, number, or number and group", () => {
  const nobody = resolveUser("nobody");
  assert.equal(nobody.name, "nobody");
  assert.ok(nobody.uid > 0 && nobody.groups.includes(nobody.gid));
  assert.deepEqual(resolveUser(`${nobody.uid}`), nobody);
  assert.deepEqual(resolveUser(`${nobody.uid}:77`), { ...nobody, gid: 77, groups: [77] });
  // A number need not have a name.
  const free = { name: "3999999999", uid: 3_999_999_999, gid: 3_999_999_999 };
  assert.deepEqual(resolveUser("3999999999"), { ...free, groups: [free.gid] });
});

test("no user, and root, are refused in a sentence", () => {
  assert.throws(() => resolveUser("no-such-user"), /there is no user no-such-user on this host/);
  for (const root of ["root", "0", "0:5"]) {
    assert.throws(() => resolveUser(root), /expected a user other than root/);
  }
});

test("what is kept: as little as the device and the kernel allow", () => {
  const tun = { type: "tun", routes: "auto" } as const;
  assert.deepEqual(keptCapabilities(tun, "6.18.44"), ["CAP_NET_ADMIN"]);
  assert.deepEqual(keptCapabilities({ ...tun, routes: "none" }, "6.18.44"), []);
  assert.deepEqual(keptCapabilities({ type: "xdp", routes: "auto" }, "5.19.0-rc1"), [
    "CAP_NET_ADMIN",
  ]);
  assert.deepEqual(keptCapabilities({ type: "packet", routes: "auto" }, "5.15.0-91-generic"), [
    "CAP_NET_ADMIN",
    "CAP_BPF",
  ]);
});
