-- Merge one status into each room: for a rank, under a lease, or through a generation. Times are milliseconds.
--
-- KEYS     feed, epoch, leases, owned; each: room, prefix in mode prefill; last: failed if a status is Failed
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author, policy; each: status, generation, reason
-- REPLY    feed_id, epoch; each: outcome, status
-- FEED     ttl_ms, status, first, rank, reason, owner
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, -2 LEASE, -3 WORLD_SIZE,
--          -4 CORRUPT
-- INCLUDE  advance, is_lease_lost, write_room, limit, refused, feed
--
-- An empty generation is a plain write, merged by the policy. With a generation it is merged by strict, and STALE once
-- the room has another, or the rank has cleared. A room without ranks, or with another number of them, is refused with
-- WORLD_SIZE; its own number replaces the status. For a key of another type (made by hand), the error does; with
-- CORRUPT, a field and its value.

local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local count = (#ARGV - 11) / 3
local step = math.floor((#KEYS - 4 - (ARGV[12] == 'Failed' and 1 or 0)) / count)  -- as in update.lua
local lease_lost = is_lease_lost()

for i = 1, count do
  local room, prefix = KEYS[(i - 1) * step + 5], KEYS[i * 2 + 4]
  local outcome, status =
    write_room(room, prefix, ARGV[i * 3 + 9], ARGV[i * 3 + 10], ARGV[i * 3 + 11], lease_lost, step == 2)
  if outcome > 4 or outcome < 0 then
    refused = refused or {}
    refused[outcome] = (refused[outcome] or 0) + 1
    refused_room, refused_by = room, owner
  end
  reply[i * 2 + 1], reply[i * 2 + 2] = outcome, status
  if fields_read > MAX_FIELDS then break end
end
if #new_parts > 0 then list_new_rooms() end
