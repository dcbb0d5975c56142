-- Merge one status into each room: for a rank, under a lease, or through a generation. Times are milliseconds.
--
-- KEYS   feed, epoch, leases, owned; each: room, prefix in mode prefill
-- ARGV   feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--        incarnation, author, policy; each: status, generation, reason
-- REPLY  feed_id, epoch; each: outcome, status
-- FEED   ttl_ms, status, first, rank, reason
-- CODES  1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, -2 LEASE, -3 WORLD_SIZE
-- USES   room, feed
--
-- An empty generation is a plain write, merged by the policy. Through a generation it is merged by strict, and STALE
-- once the room has another, or the rank has cleared. A room that has ranks for who has none, or other ones, is
-- refused by WORLD_SIZE, with its own in the place of the status. A key of another type puts its error there.

local count = (#ARGV - 11) / 3
local step = (#KEYS - 4) / count
local lease_lost = is_lease_lost()
local generation

for i = 1, count do
  local room, prefix = KEYS[(i - 1) * step + 5], KEYS[i * 2 + 4]
  local incoming, fence, reason = ARGV[i * 3 + 9], ARGV[i * 3 + 10], ARGV[i * 3 + 11]
  local there, wrong = fields_of(room)
  local current, strict = there[own], fence ~= '' or ARGV[11] == 'strict'
  local outcome, status = 3, view(there)
  if wrong then
    status = wrong
  elseif fence ~= '' and (there.generation ~= fence or there[cleared]) then
    outcome = 6
  elseif lease_lost then
    outcome, status = -2, owner
  elseif there.status and (there.world_size or '') ~= world_size then
    outcome, status = -3, there.world_size or ''
  else
    if incoming == 'Failed' and step == 2 then
      local dropped = redis.pcall('HDEL', prefix, rank == '' and 'length' or 'length:' .. rank)
      if type(dropped) == 'table' then status = dropped end
    end
    if there[cleared] then
      outcome = 5
    elseif incoming == 'Failed' then
      -- Through a generation, also a rank that has not been heard of may fail the room: it is no late message.
      outcome = (current or (fence ~= '' and there.status)) and (current == 'Failed' and 3 or 4) or 5
    elseif not current then
      outcome = there.status == 'Failed' and 4 or (strict and ORDER[incoming] > 2) and 5 or 1
      if outcome == 4 then incoming = 'Failed' end
    elseif not (strict and there.status == 'Failed') and ORDER[incoming] > (ORDER[current] or 9) then
      outcome = 2
    end
    if type(status) == 'table' then
      outcome = 3
    elseif outcome == 1 or outcome == 2 or outcome == 4 then
      if not there.status then
        generation = generation or next_generation('')
        create(room, there, generation, '')
      end
      put(room, there, incoming, reason)
      status = view(there)
    end
  end
  reply[i * 2 + 1], reply[i * 2 + 2] = outcome, status
end
