-- A room in all its fields: what its ranks agree on, how one of them sees it, and what a write leaves. This goes in
-- front of every script that USES room. Times are milliseconds.
--
-- KEYS begin with feed, epoch, leases, owned. ARGV begin with who calls: feed_length, ttl_ms, terminal_ttl_ms,
-- epoch_ttl_ms, nonce, rank, world_size, owner, incarnation, author. A word that is empty is not there: no rank, no
-- lease. With ranks, each has a field status:<rank>, or cleared:<rank> once it has cleared, and status is what they
-- agree on; without, status is all there is.

local ORDER = {Failed = 0, Bootstrapping = 1, WaitingForInput = 2, Transferring = 3, Success = 4}
local rank, world_size, owner, incarnation = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local own, cleared = 'status', ''
if rank ~= '' then own, cleared = 'status:' .. rank, 'cleared:' .. rank end
local reply, changes, renew = {false, redis.call('HGET', KEYS[2], 'epoch')}, {}, false
local now_ms, now_us

local function clock()
  if now_ms then return end
  local time = redis.call('TIME')
  local micros = string.sub('00000' .. time[2], -6)
  now_ms, now_us = time[1] .. string.sub(micros, 1, 3), time[1] .. micros
end

-- The shard's epoch is made when it is missing: with it, all else that was here is gone.
local function see_to_epoch()
  if reply[2] then return end
  clock()
  reply[2] = now_us .. '-' .. ARGV[5]
  redis.call('HSET', KEYS[2], 'epoch', reply[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

-- Whether the caller's lease is its own no more.
local function is_lease_lost()
  local lease = owner ~= '' and redis.call('HGET', KEYS[3], owner)
  return owner ~= '' and not (lease and string.find(lease, incarnation .. ' ', 1, true) == 1)
end

-- A generation above all that this shard has given, and above what the caller has seen.
local function next_generation(seen)
  clock()
  local last = redis.call('HGET', KEYS[2], 'generation') or ''
  if last < seen then last = seen end
  local generation = now_us > last and now_us or string.format('%.0f', last + 1)
  redis.call('HSET', KEYS[2], 'generation', generation)
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  return generation
end

-- All fields of a room, none when it is absent; or none, and the error that a key of another type gives.
local function fields_of(room)
  local words, there = redis.pcall('HGETALL', room), {}
  for i = 1, #words, 2 do there[words[i]] = words[i + 1] end
  return there, words.err and words
end

-- How the caller's rank sees a room, as in view.lua.
local function view(there)
  return there.status == 'Failed' and not there[cleared] and 'Failed' or there[own] or false
end

-- Any rank Failed: Failed. A rank missing: Bootstrapping. Else the lowest.
local function agreement(there)
  if rank == '' then return there.status end
  local heard, lowest = 0, 'Success'
  for name, status in pairs(there) do
    if string.find(name, '^status:') or string.find(name, '^cleared:') then
      heard = heard + 1
      -- One that is none of ours (made by hand) counts as heard of, and for nothing more.
      if (ORDER[status] or 9) < ORDER[lowest] then lowest = status end
    end
  end
  if lowest == 'Failed' or string.format('%d', heard) == there.world_size then return lowest end
  return 'Bootstrapping'
end

-- The fields that a room is born with.
local function create(room, there, generation, request)
  clock()
  there.generation, there.request, there.is_new = generation, request, true
  if rank ~= '' then there.world_size = world_size end
  if owner ~= '' then there.owner = owner end
  local entry = {'generation', generation, 'opened_ms', now_ms}
  if request ~= '' then entry[5], entry[6] = 'request', request end
  if rank ~= '' then entry[#entry + 1], entry[#entry + 2] = 'world_size', world_size end
  if owner ~= '' then
    local n = #entry
    entry[n + 1], entry[n + 2], entry[n + 3], entry[n + 4] = 'owner', owner, 'incarnation', incarnation
    redis.call('ZADD', KEYS[4], incarnation, string.sub(room, #KEYS[1] + 2))
    if not renew then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
  end
  redis.call('HSET', room, unpack(entry))
  renew = true  -- of this call, the first room that is created
end

-- Give the caller's rank a status, for a reason if there is one; the first stays.
local function put(room, there, status, reason)
  clock()
  local was = there.status
  there[own] = status
  there.status = agreement(there)
  if rank == '' then
    redis.call('HSET', room, 'status', status, 'updated_ms', now_ms)
  else
    local version = string.format('%.0f', (there.version or 0) + 1)
    redis.call('HSET', room, own, status, 'status', there.status, 'updated_ms', now_ms, 'version', version)
  end
  local is_first = false
  if there.status ~= 'Failed' then
    if was == 'Failed' then redis.call('HDEL', room, 'reason', 'failed_by') end
  else
    is_first = reason ~= '' and redis.call('HSETNX', room, 'reason', reason) == 1
    -- Who fails a room that has failed before, or is born so, is not the cause.
    if was ~= 'Failed' and ARGV[10] ~= '' then redis.call('HSETNX', room, 'failed_by', ARGV[10]) end
  end
  local ttl_ms = (there.status == 'Success' or there.status == 'Failed') and ARGV[3] or ARGV[2]
  redis.call('PEXPIRE', room, ttl_ms)
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3] = room, there.status, ttl_ms
  changes[n + 4], changes[n + 5] = is_first and reason, false
  -- Who follows the feed must not take the ranks of a former generation, or of a room that has expired, for its own.
  if rank ~= '' then changes[n + 5] = {(there.is_new and 'first:' or 'rank:') .. rank, status} end
end

