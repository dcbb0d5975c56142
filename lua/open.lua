-- Claim each room for a request: a new generation, or the one that this request has already. Times are milliseconds.
--
-- KEYS   feed, epoch, leases, owned; each: room, prefix
-- ARGV   feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--        incarnation, author; each: request, status, seen
-- REPLY  feed_id, epoch; each: outcome, status, generation, age_ms, of_owner, of_request
-- FEED   ttl_ms, status, first, rank
-- CODES  1 CREATED, 3 UNCHANGED, 4 FAILED, -1 BUSY, -2 LEASE, -3 WORLD_SIZE
-- USES   room, feed
--
-- A room is free when it is absent, or Failed by another request; then nothing of that stays. BUSY says who has it. A
-- rank that comes to a Failed room of its own request is born Failed. seen is the highest generation that the caller
-- knows. A decode prefix length that was recorded for a room still to come stays; one of a former generation goes.

see_to_epoch()
clock()
local lease_lost = is_lease_lost()
local generation

for i = 1, (#ARGV - 10) / 3 do
  local room, prefix = KEYS[i * 2 + 3], KEYS[i * 2 + 4]
  local request, incoming, seen = ARGV[i * 3 + 8], ARGV[i * 3 + 9], ARGV[i * 3 + 10]
  local there, wrong = fields_of(room)
  local outcome, status = 3, wrong or there.status or false
  local is_mine = there.status and there.request == request
  if wrong then
    outcome = 3
  elseif lease_lost then
    outcome, status = -2, owner
  elseif there.status and not is_mine and there.status ~= 'Failed' then
    outcome = -1
  elseif is_mine and there[cleared] then
    outcome = -1
  elseif is_mine and (there.world_size or '') ~= world_size then
    outcome, status = -3, there.world_size or ''
  elseif is_mine and there[own] then
    status = view(there)
  else
    outcome = 1
    if is_mine then
      if there.status == 'Failed' then outcome, incoming = 4, 'Failed' end
    else
      redis.call('DEL', room)
      if there.owner then redis.call('ZREM', KEYS[4], string.sub(room, #KEYS[1] + 2)) end
      if there.status or redis.pcall('HGET', prefix, 'generation') then redis.call('DEL', prefix) end
      there = {}
      generation = generation or next_generation(seen)
      create(room, there, generation, request)
    end
    put(room, there, incoming, '')
    status = view(there)
  end
  local age_ms = string.format('%.0f', now_ms - (there.opened_ms or now_ms))
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = outcome, status, there.generation or false, age_ms
  reply[n + 5], reply[n + 6] = there.owner or false, there.request or false
end
