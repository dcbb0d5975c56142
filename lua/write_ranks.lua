-- Merge what several ranks of each room say, as a call of write.lua or of clear.lua for each would. Times are
-- milliseconds.
--
-- KEYS     feed, epoch, leases, owned, cleared, refused; each: room, prefix
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author, policy, mode; each: of_rank, of_world_size, of_owner, of_incarnation,
--          generation, status, reason, length
-- REPLY    feed_id, epoch; each: outcome, status
-- FEED     ttl_ms, status, first, rank, absent, owner, reason
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, 7 CLEARED, -2 LEASE,
--          -3 WORLD_SIZE, -4 CORRUPT
-- INCLUDE  caller, rank_items, group, write_group, limit, refused, feed
--
-- For a caller that speaks for many ranks, each with a lease of its own; it has neither. Items of one room that follow
-- each other cost little more than one: one read, one write, one change in the feed with the words of each rank. status
-- is absent for a clear, which needs a generation, and empty if there is only a decode prefix length. That is recorded
-- for the generation, before the status.

local MAX_RANKS = 64  -- of a group
local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local count = (#ARGV - FIRST) / WIDTH
local names = {}

for i = 1, count do
  set_caller(i)
  if owner ~= '' and not leases[owner] then leases[owner], names[#names + 1] = '', owner end
end
local found = #names > 0 and redis.call('HMGET', KEYS[3], unpack(names))
for i = 1, #names do leases[names[i]] = found[i] or '' end

local i = 1
while i <= count and fields_read <= MAX_FIELDS do
  local room, prefix, first = KEYS[i * 2 + 5], KEYS[i * 2 + 6], i
  names = {'status', 'generation', 'world_size', 'version', 'counts', 'replayed'}
  for at = i, math.min(i + MAX_RANKS - 1, count) do
    if KEYS[at * 2 + 5] ~= room then break end
    set_caller(at)
    local n = #names
    names[n + 1], names[n + 2], names[n + 3] = status_field, cleared_field, lease_field
  end
  local group, last = read_group(room, names), i + (#names - 6) / 3 - 1
  while i <= last and not group.is_over do
    local outcome, status = add(group, i)
    if not outcome then break end
    reply[i * 2 + 1], reply[i * 2 + 2], i = outcome, status, i + 1
  end
  if i > first then
    write_group(room, prefix, group)
  else
    reply[i * 2 + 1], reply[i * 2 + 2] = write_alone(room, prefix, i)
    i = i + 1
  end
end
for at = 1, i - 1 do
  local outcome = reply[at * 2 + 1]
  if (outcome > 4 or outcome < 0) and ORDER[ARGV[FIRST + (at - 1) * WIDTH + 6]] then
    refused, refused_key = refused or {}, KEYS[6]
    refused[outcome] = (refused[outcome] or 0) + 1
  end
end
