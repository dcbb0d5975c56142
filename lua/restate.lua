-- Bring each room back to where one who holds it knows it to be, after the server has lost it. Times are milliseconds.
--
-- KEYS   feed, epoch, leases, owned; each: room, prefix
-- ARGV   feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--        incarnation, author; each: generation, request, status, reason, length, role
-- REPLY  feed_id, epoch; each: outcome, status
-- FEED   ttl_ms, status, first, reason, rank
-- CODES  1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, -2 LEASE, -3 WORLD_SIZE
-- USES   room, feed
--
-- role is opener, who creates the room if it is absent or has a lower generation; guest, who only merges; or cleared:
-- a guest who has cleared, and whose last status still counts. A higher generation wins. Merged by strict. Who holds a
-- room without knowing a status creates none, and only adds its length. One that was recorded
-- for the room meanwhile stays. How far the version of what the ranks agree on had got, nobody knows: it goes on with
-- microseconds.

see_to_epoch()
local lease_lost = is_lease_lost()
local highest = ''

for i = 1, (#ARGV - 10) / 6 do
  local room, prefix, at = KEYS[i * 2 + 3], KEYS[i * 2 + 4], i * 6 + 5
  local generation, incoming, role = ARGV[at], ARGV[at + 2], ARGV[at + 5]
  local there, wrong = fields_of(room)
  local has = there.generation or ''
  local outcome, status = 3, view(there)
  if wrong then
    status = wrong
  elseif has > generation or (has == generation and there[cleared] and role ~= 'cleared') then
    outcome = 6
  elseif lease_lost then
    outcome, status = -2, owner
  elseif has ~= generation and (role ~= 'opener' or not ORDER[incoming]) then
    outcome = 5
  elseif has == generation and (there.world_size or '') ~= world_size then
    outcome, status = -3, there.world_size or ''
  elseif not (has == generation and there[cleared]) then
    if has ~= generation then
      redis.call('DEL', room)
      if there.status or redis.pcall('HGET', prefix, 'generation') then redis.call('DEL', prefix) end
      there = {}
      create(room, there, generation, ARGV[at + 1])
      if generation > highest then highest = generation end
    end
    if incoming == 'Failed' then
      outcome = there[own] == 'Failed' and 3 or 4
    elseif there.status ~= 'Failed' and (ORDER[incoming] or 0) > (ORDER[there[own]] or 0) then
      outcome = there[own] and 2 or 1
    end
    if outcome ~= 3 then
      clock()
      if now_us - (there.version or 0) > 0 then there.version = now_us end
      put(room, there, incoming, ARGV[at + 3])
    end
    if ARGV[at + 4] ~= '' then
      local field = rank == '' and 'length' or 'length:' .. rank
      local stored = redis.pcall('HSET', prefix, field, ARGV[at + 4], 'generation', generation)
      if type(stored) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
    end
    status = view(there)
    if role == 'cleared' and rank ~= '' and there[own] then
      redis.call('HSET', room, cleared, there[own])
      redis.call('HDEL', room, own)
      status = false
      local n = #changes
      if outcome == 3 then
        changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = room, there.status, false, false
        n = n + 5
      end
      changes[n] = {'rank:' .. rank, 'absent'}
    end
  end
  reply[i * 2 + 1], reply[i * 2 + 2] = outcome, status
end
if highest > (redis.call('HGET', KEYS[2], 'generation') or '') then
  redis.call('HSET', KEYS[2], 'generation', highest)
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
